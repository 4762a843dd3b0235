"""The chain task's tokenizer: one token per word, in Hugging Face form; and where a response in its tokens goes wrong."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from oprime.runtime.errors import UnusableInputError
from oprime.tasks.chain import ANSWER_MARK, END, MODULUS, QUESTION, SIGNS, STEP_MARK, first_wrong_step

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD = "<pad>"
BEGIN = "<bos>"
SPECIAL = (PAD, BEGIN, END)
WORDS = (
    *(str(digit) for digit in range(MODULUS)),
    *(f"{sign}{digit}" for sign in SIGNS for digit in range(MODULUS)),
    *(f"{STEP_MARK}{digit}" for digit in range(MODULUS)),
    *(f"{ANSWER_MARK}{digit}" for digit in range(MODULUS)),
    QUESTION,
)
VOCABULARY = (*SPECIAL, *WORDS)
"""54 tokens; a token's place is its id."""
_KNOWN = frozenset(VOCABULARY)

CHAT_TEMPLATE = (
    "{%- set words = '" + " ".join(WORDS) + "'.split() -%}"
    "{%- for message in messages -%}"
    "{%- for word in message['content'].split() -%}"
    "{%- if word not in words -%}{{ raise_exception(word ~ ' is no word of the chain task: write for example 3 +8 -5 ?') }}{%- endif -%}"
    "{%- endfor -%}"
    "{{ message['content'] ~ ' ' }}"
    "{%- if message['role'] == 'assistant' -%}{{ '" + END + " ' }}{%- endif -%}"
    "{%- endfor -%}"
)
"""Contents pass through as they are; an assistant's turn ends with the end token. The prompt ends where the answer begins."""


def first_wrong_token(prompt: str, tokens: Sequence[str]) -> int | None:
    """Place of the first wrong word of a chain; None when all are right, and when the tokens are not the chain task's words."""
    words = [token.strip() for token in tokens]
    if not _KNOWN.issuperset(words):
        return None
    try:
        return first_wrong_step(prompt, " ".join(words))
    except UnusableInputError:
        return None


def chain_tokenizer(max_tokens: int = 128) -> "PreTrainedTokenizerFast":
    """A tokenizer of words separated by spaces. `max_tokens` is the length of its model's context."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(WordLevel(vocab={word: place for place, word in enumerate(VOCABULARY)}))
    tokenizer.pre_tokenizer = WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
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


def save_chain_tokenizer(directory: Path, max_tokens: int = 128) -> None:
    """Write the tokenizer where `AutoTokenizer.from_pretrained` and vLLM find it."""
    chain_tokenizer(max_tokens).save_pretrained(str(directory))
