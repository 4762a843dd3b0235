"""Conversations as tokens: what of them is trained on, by markers and without, and templates that do not play along."""

from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from byte_tokenizer import CHATML, FORGETS_THOUGHTS, MARKED, byte_tokenizer
from oprime.core.types import ChatMessage
from oprime.lm.conversations import ConversationEncoder, EncodedConversation
from oprime.lm.tokenizers import render_prompt
from oprime.runtime.errors import UnusableInputError
from oprime.tasks.chain_tokenizer import chain_tokenizer

PROMPT = ChatMessage(role="user", content="3 +8 ?")
ANSWER = ChatMessage(role="assistant", content="=1 #1")
OTHER_PROMPT = ChatMessage(role="user", content="5 -2 ?")
OTHER_ANSWER = ChatMessage(role="assistant", content="=3 #3")
TWO_TURNS = (PROMPT, ANSWER, OTHER_PROMPT, OTHER_ANSWER)


def encoder(tokenizer: Any, *ends: str) -> ConversationEncoder:
    return ConversationEncoder(tokenizer, tokenizer.convert_tokens_to_ids(list(ends)) if ends else (tokenizer.eos_token_id,))


def said(tokenizer: Any, found: EncodedConversation, *, trained: bool) -> str:
    return tokenizer.decode(found.ids[found.is_trained == trained])


def both(tokenizer: Any, *messages: ChatMessage) -> tuple[str, str]:
    """Context and what is trained on."""
    found = encoder(tokenizer).encode(messages)
    return said(tokenizer, found, trained=False), said(tokenizer, found, trained=True)


@pytest.mark.parametrize("template", [CHATML, MARKED])
def test_every_turn_of_the_assistant_is_trained_on_with_its_end_token(template: str) -> None:
    tokenizer = byte_tokenizer(template)
    found = encoder(tokenizer).encode(TWO_TURNS)
    assert said(tokenizer, found, trained=True) == "=1 #1<|im_end|>=3 #3<|im_end|>"
    assert tokenizer.decode(found.ids) == (
        "<|im_start|>user\n3 +8 ?<|im_end|>\n<|im_start|>assistant\n=1 #1<|im_end|>\n"
        "<|im_start|>user\n5 -2 ?<|im_end|>\n<|im_start|>assistant\n=3 #3<|im_end|>"
    )
    assert found.rewritten == 0


@pytest.mark.parametrize("template", [CHATML, MARKED])
def test_what_stands_before_an_answer_is_what_the_generator_samples_after(template: str) -> None:
    tokenizer = byte_tokenizer(template)
    found = encoder(tokenizer).encode(TWO_TURNS)
    for place in (1, 3):
        asked = render_prompt(tokenizer, TWO_TURNS[:place])
        assert found.ids[: len(asked)].tolist() == asked
        assert found.is_trained[len(asked)]


def test_markers_may_leave_a_turn_out() -> None:
    tokenizer = byte_tokenizer(MARKED.replace("m.role == 'assistant'", "loop.last"))
    found = encoder(tokenizer).encode(TWO_TURNS)
    assert said(tokenizer, found, trained=True) == "=3 #3<|im_end|>"


def test_a_marked_turn_that_is_rewritten_once_others_follow_is_context_and_counted() -> None:
    forgets = MARKED.replace("{{ m.content }}{% endgeneration %}", "{{ m.content if loop.last else '...' }}{% endgeneration %}")
    tokenizer = byte_tokenizer(forgets)
    found = encoder(tokenizer).encode(TWO_TURNS)
    assert said(tokenizer, found, trained=True) == "=3 #3<|im_end|>"
    assert found.rewritten == 1


def test_a_turn_that_is_rewritten_once_others_follow_is_context_and_counted() -> None:
    tokenizer = byte_tokenizer(FORGETS_THOUGHTS)
    thought = ChatMessage(role="assistant", content="<think>hm</think>=1")
    found = encoder(tokenizer).encode((PROMPT, thought, OTHER_PROMPT, thought))
    assert said(tokenizer, found, trained=True) == "<think>hm</think>=1<|im_end|>"
    assert "assistant\n=1<|im_end|>" in said(tokenizer, found, trained=False)
    assert found.rewritten == 1


def test_the_template_may_end_turns_with_a_token_at_which_the_model_does_not_stop_yet() -> None:
    # As with a base model, whose end token ends documents.
    tokenizer = byte_tokenizer(eos="<|endoftext|>")
    of_base = encoder(tokenizer)
    found = of_base.encode(TWO_TURNS)
    assert said(tokenizer, found, trained=True) == "=1 #1<|im_end|>=3 #3<|im_end|>"
    assert of_base.turn_ends == {tokenizer.convert_tokens_to_ids("<|im_end|>")}
    # Where sampling stops at it anyway, there is nothing to add.
    of_chat = encoder(tokenizer, "<|im_end|>", "<|endoftext|>")
    of_chat.encode(TWO_TURNS)
    assert of_chat.turn_ends == set()


def test_an_answer_that_nothing_comes_before_is_context() -> None:
    assert both(byte_tokenizer(), ANSWER, PROMPT, OTHER_ANSWER)[1] == "=3 #3<|im_end|>"


def test_the_first_token_is_never_trained_on() -> None:
    tokenizer = byte_tokenizer("{% for m in messages %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% endfor %}")
    found = encoder(tokenizer).encode((PROMPT, ANSWER))
    assert (bool(found.is_trained[0]), bool(found.is_trained[1:].all())) == (False, True)


def test_a_template_without_an_end_token_gets_one_and_what_follows_the_end_is_cut() -> None:
    tokenizer: Any = chain_tokenizer()
    for template in ("{% for m in messages %}{{ m.content }} {% endfor %}", "{% for m in messages %}{{ m.content }} {% endfor %}<eos> ? ?"):
        tokenizer.chat_template = template.replace("<eos> ? ?", "{% if messages[-1].role == 'assistant' %}<eos> ? ?{% endif %}")
        assert tokenizer.decode(encoder(tokenizer).encode((PROMPT, ANSWER)).ids) == "3 +8 ? =1 #1 <eos>"


def test_what_a_template_writes_after_an_end_token_leads_to_the_next_turn() -> None:
    tokenizer: Any = chain_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }} {% if m.role == 'assistant' %}<eos> ? {% endif %}{% endfor %}"
    assert both(tokenizer, *TWO_TURNS) == ("3 +8 ? ? 5 -2 ?", "=1 #1 <eos> =3 #3 <eos>")


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages if m.role != 'assistant' %}{{ m.content }}<|im_end|>{% endfor %}",
        MARKED.replace("m.role == 'assistant'", "m.role == 'model'"),
    ],
    ids=["by prompts", "by markers"],
)
def test_a_template_without_turns_of_the_assistant_is_refused(template: str) -> None:
    with pytest.raises(UnusableInputError, match="writes nothing where the assistant answers"):
        encoder(byte_tokenizer(template)).encode(TWO_TURNS)


def test_a_template_that_hides_where_the_answer_begins_is_refused() -> None:
    tokenizer = byte_tokenizer("{{ messages[-1].content }} {% for m in messages %}{{ m.content }} {% endfor %}")
    with pytest.raises(UnusableInputError, match="the response cannot be told apart"):
        encoder(tokenizer).encode((PROMPT, ANSWER))


@pytest.mark.parametrize("template", [CHATML, MARKED])
def test_a_template_that_refuses_a_conversation_says_so(template: str) -> None:
    tokenizer = byte_tokenizer("{{ raise_exception('no') }}" + template)
    with pytest.raises(UnusableInputError, match=r"refuses a conversation of roles user.*: no"):
        encoder(tokenizer).encode((PROMPT, ANSWER))


def test_a_text_that_cannot_be_tokenised_is_refused() -> None:
    # Words alone, and no token for those that it does not know.
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0, "<eos>": 1})), eos_token="<eos>")
    words.chat_template = CHATML
    with pytest.raises(UnusableInputError, match=r"the text cannot be tokenised \(WordLevel error: Missing \[UNK\] token"):
        encoder(words).encode((PROMPT, ANSWER))
