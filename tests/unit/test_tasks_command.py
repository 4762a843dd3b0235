"""`oprime tasks`."""

import json
from pathlib import Path

import pytest

from oprime.runtime.settings import ChainSection, ProseSection, TasksSection
from oprime.tasks.actions import short_prompt
from oprime.tasks.dataset import load_tasks
from oprime.tasks.sources.eurus_sources import CODE_SUFFIX
from oprime_cli.main import main
from tiny_policies import write_tokenizer

CONFIG = """
[run]
name = "test"
steps = 1
[model]
path = "model"
[coordinator]
groups_per_batch = 1
[tasks]
train = "{train}"
"""


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_the_built_in_task_is_written_as_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str], ending: str) -> None:
    out = tmp_path / f"chain.{ending}"
    assert main(["tasks", "chain", "--out", str(out), "--split", "heldout", "--rows", "5", "--operations", "3"]) == 0
    assert capsys.readouterr().out == f"5 rows in {out}\n"
    built_in = load_tasks(TasksSection(source="chain", chain=ChainSection(operations=3, heldout_problems=5)), "heldout")
    assert list(load_tasks(TasksSection(heldout=str(out)), "heldout")) == list(built_in)


def test_the_format_may_differ_from_the_name(tmp_path: Path) -> None:
    out = tmp_path / "chain.data"
    assert main(["tasks", "chain", "--out", str(out), "--rows", "2", "--format", "jsonl"]) == 0
    assert [json.loads(line)["extra_info"]["split"] for line in out.read_text().splitlines()] == ["train", "train"]


def test_a_name_without_a_format_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks", "chain", "--out", str(tmp_path / "chain.txt"), "--rows", "2"]) == 2
    assert "must end with .jsonl or .parquet" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--rows", "0"], ["--operations", "65"], ["--rows", "many"]])
def test_a_wrong_number_is_refused(tmp_path: Path, words: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["tasks", "chain", "--out", str(tmp_path / "chain.jsonl"), *words])


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["tasks", "chain", "--out", str(tmp_path / "file" / "chain.jsonl"), "--rows", "2"]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_questions_and_answers_become_tasks_and_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out, settings = tmp_path / "source.jsonl", tmp_path / "tasks.jsonl", tmp_path / "run.toml"
    source.write_text(json.dumps({"question": "2 + 2?", "answer": "It is #### 4"}) + "\n")
    words = ["--question", "question", "--answer", "answer", "--answer-after", "####", "--suffix", " Box it."]
    assert main(["tasks", "convert", str(source), "--out", str(out), *words]) == 0
    settings.write_text(CONFIG.format(train=out))
    assert main(["tasks", "check", str(settings)]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == ["train: 1 tasks (1 math)", "heldout: none"]
    assert load_tasks(TasksSection(train=str(out)), "train")[0].messages[0].content == "2 + 2? Box it."


def test_a_check_tries_the_models_chat_template(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tokenizer(tmp_path / "model", template="{{ 1 // (messages | length - 1) }} {{ messages[0]['content'] }}")
    (tmp_path / "model" / "config.json").write_text('{"model_type": "llama"}')
    rows, settings = tmp_path / "tasks.jsonl", tmp_path / "run.toml"
    turns = [{"role": "system", "content": "Add."}, {"role": "user", "content": "1 + 1"}]
    row = {"ability": "math", "reward_model": {"ground_truth": "2"}}
    rows.write_text(json.dumps({**row, "prompt": turns}) + "\n" + json.dumps({**row, "prompt": turns[1:]}) + "\n")
    settings.write_text(CONFIG.format(train=rows))
    model = ["--set", f"model.path={tmp_path / 'model'}"]
    assert main(["tasks", "check", str(settings), *model]) == 2
    assert f"{rows}, row 2, prompt: refused by the chat template" in capsys.readouterr().err
    assert main(["tasks", "check", str(settings), *model, "--set", "tasks.skip_bad_rows=true"]) == 0
    assert "train: 1 tasks (1 math)" in capsys.readouterr().out
    # A run would refuse to start with such a held-out split.
    short = ["--set", f"tasks.heldout={rows}", "--set", "tasks.skip_bad_rows=true", "--set", "sampling.max_prompt_tokens=1"]
    rows.write_text(json.dumps({**row, "prompt": turns}) + "\n")
    assert main(["tasks", "check", str(settings), *model, *short]) == 2
    assert "heldout task 0 ('1 + 1'...): the prompt has 2 tokens" in capsys.readouterr().err


def test_a_check_without_a_model_says_that_prompts_were_not_tried(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, settings = tmp_path / "tasks.jsonl", tmp_path / "run.toml"
    prompt = [{"role": "user", "content": "1 + 1"}]
    rows.write_text(json.dumps({"ability": "math", "reward_model": {"ground_truth": "2"}, "prompt": prompt}) + "\n")
    settings.write_text(CONFIG.format(train=rows))
    assert main(["tasks", "check", str(settings), "--set", "model.path=./nothing"]) == 0
    assert "prompts are not tried with a chat template: there is no model directory ./nothing" in capsys.readouterr().out


def test_a_published_form_is_recognised_and_its_rows_can_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "mbpp.json", tmp_path / "tasks.jsonl"
    row = {"prompt": "Add one.", "task_id": 2, "test_imports": [], "test_list": ["assert f(1) == 2"]}
    source.write_text(json.dumps([row, {**row, "test_list": []}, {**row, "test_list": ["print(f(1))"]}]))
    assert main(["tasks", "convert", str(source), "--out", str(out), "--actions"]) == 2
    said = capsys.readouterr().err
    assert "has 2 bad rows; correct them, or leave them out with --skip-bad-rows:" in said
    assert f"{source}, row 2, answer: no answer" in said
    assert f"{source}, row 3, tests: unusable tests: tests.test_list has no assert" in said
    assert not out.exists()
    assert main(["tasks", "convert", str(source), "--out", str(out), "--actions", "--skip-bad-rows"]) == 0
    (task,) = load_tasks(TasksSection(train=str(out)), "train")
    assert [turn.content for turn in task.messages] == [
        short_prompt(),
        f"Add one.\n\nYour code must pass this test:\n```python\nassert f(1) == 2\n```{CODE_SUFFIX}",
    ]
    assert (task.verifier, task.data_source) == ("code", "mbpp")


def test_a_form_and_fields_exclude_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "source.jsonl", tmp_path / "tasks.jsonl"
    source.write_text('{"q": "2 + 2?", "a": 4}\n')
    for words in (["--question", "q"], ["--question", "q", "--answer", "a", "--from", "math"]):
        assert main(["tasks", "convert", str(source), "--out", str(out), *words]) == 2
        assert "--question and --answer name two fields together" in capsys.readouterr().err


def test_an_empty_source_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "source.jsonl", tmp_path / "tasks.jsonl"
    source.touch()
    assert main(["tasks", "convert", str(source), "--out", str(out), "--question", "q", "--answer", "a"]) == 2
    assert f"{source} has no usable row" in capsys.readouterr().err
    assert not out.exists()


def test_a_check_names_the_bad_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, settings = tmp_path / "tasks.jsonl", tmp_path / "run.toml"
    source.write_text("nonsense\n")
    settings.write_text(CONFIG.format(train=source))
    assert main(["tasks", "check", str(settings)]) == 2
    assert f"{source}, row 1, row: wrong JSON" in capsys.readouterr().err


def test_a_verifier_that_nobody_offers_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, settings = tmp_path / "tasks.jsonl", tmp_path / "run.toml"
    row = {"prompt": [{"role": "user", "content": "2 + 2?"}], "ability": "math", "reward_model": {"ground_truth": "4"}, "data_source": "x"}
    source.write_text("".join(json.dumps({**row, **more}) + "\n" for more in ({}, {"verifier": "mine"}, {"verifier": "mine"})))
    settings.write_text(CONFIG.format(train=source))
    assert main(["tasks", "check", str(settings)]) == 2
    said = capsys.readouterr().err
    assert "tasks.train names verifiers that nobody offers (2 x 'mine')" in said
    assert "[verifier.plugins]" in said
    settings.write_text(CONFIG.format(train=source) + '[verifier.plugins]\nmine = "my_checker:mine"\n')
    assert main(["tasks", "check", str(settings)]) == 0
    assert "3 tasks (2 mine, 1 math)" in capsys.readouterr().out


def test_the_prose_task_is_written_as_tasks_demonstrations_or_labelled_solutions(tmp_path: Path) -> None:
    out = tmp_path / "prose.jsonl"
    assert main(["tasks", "prose", "--out", str(out), "--split", "heldout", "--rows", "4"]) == 0
    written = load_tasks(TasksSection(train=str(out)), "train")
    built_in = load_tasks(TasksSection(source="prose", prose=ProseSection(heldout_problems=4)), "heldout")
    assert list(written) == list(built_in)
    assert main(["tasks", "prose", "--out", str(out), "--rows", "3", "--demonstrations"]) == 0
    assert [json.loads(line)["messages"][1]["role"] for line in out.read_text(encoding="utf-8").splitlines()] == ["assistant"] * 3
    assert main(["tasks", "prose", "--out", str(out), "--rows", "4", "--errors", "natural"]) == 0
    labels = [json.loads(line)["label"] for line in out.read_text(encoding="utf-8").splitlines()]
    assert [label >= 0 for label in labels] == [False, True, False, True]


def test_demonstrations_are_written_as_jsonl_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks", "prose", "--out", str(tmp_path / "prose.parquet"), "--rows", "3", "--demonstrations"]) == 2
    assert "JSONL alone" in capsys.readouterr().err
