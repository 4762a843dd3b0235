"""The prose task's tokenizer: byte-level BPE, trained on what the task writes, in Hugging Face form with a chat template."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from oprime.tasks.prose.teacher import Teacher, problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, BEGIN, END, ASKS, ANSWERS = "<pad>", "<bos>", "<end>", "<user>", "<assistant>"
SPECIAL = (PAD, BEGIN, END, ASKS, ANSWERS)
VOCABULARY_SIZE = 800
TEXTS = 4000
"""Conversations that the tokenizer is trained on."""

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}{{ '" + ANSWERS + "' ~ message['content'] ~ '" + END + "' }}"
    "{%- else -%}{{ '" + ASKS + "' ~ message['content'] }}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '" + ANSWERS + "' }}{%- endif -%}"
)

# A merge stays within one piece. Marks of the action form and of fences are pieces, and numbers have two digits at most.
_PIECES = (
    r"\n\n#|\n\nNext action:|(?:\n\n| )?\[[A-Z]+\]|(?:\n\n)?\\boxed\{|(?:\n\n|\n)?```(?:python\n)?"
    r"|(?:\n    | )?\p{L}+| ?\p{N}{1,2}| ?[^\s\p{L}\p{N}]+|\s+"
)


def training_texts(number: int = TEXTS) -> Iterator[str]:
    """Problems and solutions of many teachers."""
    for index in range(number):
        posed = problem("train", index, stream="tokenizer", wide=True)
        prompt, response = Teacher(index, wide=True).demonstration(index)
        yield posed.prompt
        yield prompt
        yield response
    # Every number is a token, also the rare ones.
    yield from (" ".join(f"x {value} ={value} f({value}" for value in range(100)) for _ in range(number // 50))


def prose_tokenizer(max_tokens: int, texts: int = TEXTS) -> "PreTrainedTokenizerFast":
    """Train the tokenizer; as many `texts` give the same one each time. `max_tokens` is the length of its model's context."""
    from tokenizers import Regex, Tokenizer, decoders
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
    from tokenizers.trainers import BpeTrainer
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [Split(Regex(_PIECES), behavior="isolated"), ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = BpeTrainer(
        vocab_size=VOCABULARY_SIZE, special_tokens=list(SPECIAL), initial_alphabet=ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(training_texts(texts), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BEGIN,
        eos_token=END,
        chat_template=CHAT_TEMPLATE,
        model_max_length=max_tokens,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )
