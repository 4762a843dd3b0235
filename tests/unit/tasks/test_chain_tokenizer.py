"""The chain task's tokenizer as transformers, and so vLLM, loads it."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, LlamaConfig

from oprime.core.types import ChatMessage
from oprime.lm.tokenizers import render_prompt
from oprime.runtime.errors import UnusableInputError
from oprime.tasks.chain import END, Teacher, problem
from oprime.tasks.chain_tokenizer import VOCABULARY, first_wrong_token, save_chain_tokenizer

PROMPT = "3 +8 -5 ?"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    directory: Path = tmp_path_factory.mktemp("chain")
    # Beside a model's config, transformers lets the model type choose the tokenizer's class.
    LlamaConfig(vocab_size=54).save_pretrained(directory)
    save_chain_tokenizer(directory)
    return AutoTokenizer.from_pretrained(directory)


def test_there_are_54_tokens(tokenizer: Any) -> None:
    assert len(tokenizer) == 54
    assert tokenizer.get_vocab() == {word: place for place, word in enumerate(VOCABULARY)}
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)


def test_every_word_is_one_token_and_decoding_gives_the_text_back(tokenizer: Any) -> None:
    teacher = Teacher(7)
    for index in range(50):
        text = " ".join(teacher.demonstration(index, 8))
        ids = tokenizer(text).input_ids
        assert len(ids) == len(text.split())
        assert tokenizer.decode(ids) == text


def test_a_response_is_decoded_without_its_end_token(tokenizer: Any) -> None:
    ids = tokenizer(f"=1 =6 #8 {END}").input_ids
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == "=1 =6 #8"


def test_the_prompt_is_the_problem_and_ends_where_the_answer_begins(tokenizer: Any) -> None:
    ids = render_prompt(tokenizer, [ChatMessage(role="user", content=PROMPT)])
    assert tokenizer.convert_ids_to_tokens(ids) == ["3", "+8", "-5", "?"]


def test_system_and_user_contents_pass_through(tokenizer: Any) -> None:
    ids = render_prompt(tokenizer, [ChatMessage(role="system", content="1"), ChatMessage(role="user", content=PROMPT)])
    assert tokenizer.decode(ids) == "1 3 +8 -5 ?"


def test_a_conversation_ends_with_the_end_token(tokenizer: Any) -> None:
    conversation = [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": "=1 =6 #6"}]
    assert tokenizer.apply_chat_template(conversation, tokenize=False).split() == [*PROMPT.split(), "=1", "=6", "#6", END]


def test_a_word_of_another_language_is_refused_by_name(tokenizer: Any) -> None:
    with pytest.raises(UnusableInputError, match="hello is no word of the chain task"):
        render_prompt(tokenizer, [ChatMessage(role="user", content="hello")])


def test_problems_of_64_steps_fit_the_vocabulary(tokenizer: Any) -> None:
    posed = problem("heldout", 0, 64)
    assert len(tokenizer(f"{posed.prompt} {posed.right_response}").input_ids) == 66 + 65


def test_a_first_wrong_token_is_looked_for_in_chains_alone() -> None:
    assert first_wrong_token("3 +8 -5 ?", ["=1", "=7", "#7", "<eos>"]) == 1
    assert first_wrong_token("3 +8 -5 ?", ["=1", "=6", "#6", "<eos>"]) is None
    assert first_wrong_token("3 +8 -5 ?", ["=", "1", "=7"]) is None
    assert first_wrong_token("no chain", ["=1"]) is None
