"""The prose task's own tokenizer: it loses nothing, and a conversation begins as its prompt does."""

from pathlib import Path

import pytest

from oprime.core.types import ChatMessage
from oprime.lm.tokenizers import load_tokenizer, render_prompt, render_text
from oprime.tasks.prose.teacher import Teacher
from oprime.tasks.prose.tokenizer import END, VOCABULARY_SIZE, prose_tokenizer
from oprime_cli.run_config import RunConfig

DEPLOY = Path(__file__).parents[3] / "deploy"
SHIPPED, RECIPE = DEPLOY / "recipe" / "start", DEPLOY / "config" / "recipe.toml"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tokenizer")
    prose_tokenizer(256, texts=100).save_pretrained(str(directory))
    return directory


def test_any_text_is_read_back_whole(trained: Path) -> None:
    tokenizer = load_tokenizer(trained)
    for text in (*Teacher(7).demonstration(0), *Teacher(7).demonstration(1), "  a\tb\n\nÄ 漢字 [x] 12345"):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_marks_of_the_action_form_are_single_tokens(trained: Path) -> None:
    tokenizer = load_tokenizer(trained)
    assert [tokenizer.decode([token]) for token in tokenizer("[ASSESS]\n\n# x\n\nNext action: [OUTPUT]\n\n[OUTPUT]")["input_ids"]] == [
        "[ASSESS]", "\n\n#", " x", "\n\nNext action:", " [OUTPUT]", "\n\n[OUTPUT]",
    ]  # fmt: skip


def test_a_conversation_begins_with_its_prompt_and_ends_with_the_end_token(trained: Path) -> None:
    tokenizer = load_tokenizer(trained)
    asked = ChatMessage(role="user", content="Write f(n).")
    whole = render_text(tokenizer, [asked, ChatMessage(role="assistant", content="[OUTPUT]")], asks=False)
    assert whole == render_text(tokenizer, [asked], asks=True) + f"[OUTPUT]{END}"
    assert len(render_prompt(tokenizer, [asked])) < 20


def test_the_shipped_tokenizer_reads_what_the_task_writes_in_few_tokens() -> None:
    tokenizer = load_tokenizer(SHIPPED)
    assert len(tokenizer) <= VOCABULARY_SIZE
    sampling = RunConfig.load(RECIPE).sampling
    for prompt, response in map(Teacher(7).demonstration, range(100)):
        assert len(render_prompt(tokenizer, [ChatMessage(role="user", content=prompt)])) <= sampling.max_prompt_tokens
        assert len(tokenizer(response)["input_ids"]) < sampling.max_response_tokens
