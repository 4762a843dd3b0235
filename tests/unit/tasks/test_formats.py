"""Which reader a file gets, and a reader of a user's own: the one of docs/extending.md."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from oprime.core.types import ChatMessage, Task
from oprime.runtime.errors import SettingsError
from oprime.runtime.settings import TasksSection
from oprime.tasks.dataset import load_tasks
from oprime.tasks.formats import eurus, question_answer
from oprime.tasks.formats.registry import FORMATS, open_tasks
from oprime.tasks.rows import BadRowError, RawRow, read_task

PAGE = Path(__file__).parents[3] / "docs/extending.md"
EURUS = {"prompt": [{"role": "user", "content": "2 + 2?"}], "ability": "math", "reward_model": {"ground_truth": "4"}}
PLAIN = {"question": "2 + 2?", "answer": " 4 ", "data_source": None}
TASK = Task(messages=(ChatMessage(role="user", content="2 + 2?"),), verifier="math", ground_truth="4", data_source="")


def write(folder: Path, *rows: Any) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def sums_reader(folder: Path) -> str:
    """The reader of the page, in a file of its own."""
    section = PAGE.read_text(encoding="utf-8").partition("## A dataset format")[2]
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found is not None
    (folder / "sums.py").write_text(found[1])
    return f"{folder}/sums.py:READER"


@dataclass(frozen=True)
class ReaderOf:
    """Makes the same of every row."""

    made: Any
    name: str = "odd"
    fields: Sequence[str] = ()

    def read(self, row: RawRow) -> Any:
        if isinstance(self.made, Exception):
            raise self.made
        return self.made


# Recognition


@pytest.mark.parametrize(("row", "name"), [(EURUS, "eurus"), (PLAIN, "question_answer")])
def test_the_first_row_chooses_the_reader(tmp_path: Path, row: dict[str, Any], name: str) -> None:
    location = write(tmp_path, row)
    assert open_tasks(location, "tasks.train", "")[0].name == name
    assert list(load_tasks(TasksSection(train=location), "train")) == [TASK]
    assert list(load_tasks(TasksSection(train=location, reader=name), "train")) == [TASK]


def test_a_row_is_recognised_by_one_format_alone() -> None:
    assert [[known.name for known in FORMATS if known.recognises(row)] for row in (EURUS, PLAIN, {})] == [
        ["eurus"],
        ["question_answer"],
        [],
    ]


def test_a_file_that_no_format_recognises_is_read_as_eurus_rows(tmp_path: Path) -> None:
    for first in ({"problem": "2 + 2?"}, [1]):
        assert open_tasks(write(tmp_path, first, PLAIN), "tasks.train", "")[0] is eurus.READER
    assert open_tasks(write(tmp_path), "tasks.train", "")[0] is eurus.READER
    with pytest.raises(SettingsError, match=r"row 1, prompt: empty prompt: .* not missing"):
        load_tasks(TasksSection(train=write(tmp_path, {"problem": "2 + 2?"})), "train")


def test_a_solution_is_not_taken_for_an_answer(tmp_path: Path) -> None:
    location = write(tmp_path, {"question": "2 + 2?", "answer": "2 and 2 is 4.\n#### 4"})
    with pytest.raises(SettingsError, match=r"row 1, answer: solution in place of an answer: .*convert --answer-after"):
        load_tasks(TasksSection(train=location), "train")


@pytest.mark.parametrize(
    ("change", "field"), [({"question": ""}, "question"), ({"answer": None}, "answer"), ({"data_source": 3}, "data_source")]
)
def test_a_faulty_question_answer_row_is_named_by_field(change: dict[str, Any], field: str) -> None:
    with pytest.raises(BadRowError, match=f"f, row 1, {field}: missing {field}: must be a text"):
        read_task(RawRow(origin="f, row 1", value={**PLAIN, **change}), question_answer.READER)


# A user's own reader


def test_a_reader_of_ones_own_is_one_file(tmp_path: Path) -> None:
    location = write(tmp_path, {"n": 7, "sum": "28"}, {"n": "seven", "sum": "28"}, {"n": 3, "sum": ""})
    settings = TasksSection(train=location, reader=sums_reader(tmp_path), skip_bad_rows=True)
    with capture_logs() as logs:
        (task,) = load_tasks(settings, "train")
    assert task.messages[0].content == "What is the sum of the whole numbers from 1 to 7?"
    assert (task.verifier, task.ground_truth, task.data_source) == ("math", "28", "sums")
    skipped, loaded = logs
    assert skipped["reasons"] == {"refused by the reader sums": 1, "missing sum": 1}
    assert loaded["reader"] == "sums"
    with pytest.raises(SettingsError) as caught:
        load_tasks(settings.model_copy(update={"skip_bad_rows": False}), "train")
    assert "row 2, row: refused by the reader sums: ValueError: invalid literal for int() with base 10: 'seven'" in str(caught.value)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (KeyError("n"), "row: refused by the reader odd: KeyError: 'n'; correct the row or the reader"),
        (None, "row: no task: the reader odd made missing of it, not a Task"),
        (Task(messages=(), verifier="math", ground_truth="4", data_source=""), "prompt: no usable prompt: .* the last is the user's"),
        (
            Task(
                messages=(ChatMessage(role="user", content="2?"), ChatMessage(role="assistant", content="2")),
                verifier="math",
                ground_truth="4",
                data_source="",
            ),
            "prompt: no",
        ),
        (
            Task(messages=(ChatMessage(role="user", content=" "),), verifier="math", ground_truth="4", data_source=""),
            "prompt: no usable prompt",
        ),
        (Task(messages=TASK.messages, verifier="", ground_truth="4", data_source=""), "verifier: wrong verifier: must be a text"),
        (
            Task(messages=TASK.messages, verifier="math", ground_truth=" ", data_source=""),
            "ground_truth: wrong ground truth: must be a text",
        ),
        (Task(messages=TASK.messages, verifier="math", ground_truth="4", data_source="\ud800"), "data_source: wrong data source"),
        (
            Task(messages=TASK.messages, verifier="code", ground_truth="4", data_source=""),
            "ground_truth: missing ground truth: must hold tests",
        ),
        (
            Task(messages=TASK.messages, verifier="math", ground_truth="4", data_source="", verifier_options={"n": 2**60}),
            "verifier_options: wrong verifier options",
        ),
    ],
)
def test_what_a_reader_makes_is_checked(made: Any, message: str) -> None:
    with pytest.raises(BadRowError, match=f"^f, row 1, {message}"):
        read_task(RawRow(origin="f, row 1", value={}), ReaderOf(made))


@pytest.mark.parametrize(
    ("reader", "message"),
    [
        ("gsm8k", r"tasks.reader = gsm8k: no such reader; oprime has eurus, question_answer, and one of your own is"),
        ("no.such.module:READER", r"cannot be imported \(ModuleNotFoundError: .*\): install it, or correct the name"),
        ("oprime.tasks.formats.eurus:NONE", r"cannot be imported \(AttributeError"),
        ("nowhere/sums.py:READER", r"cannot be imported \(FileNotFoundError: there is no file .*nowhere/sums.py"),
        ("oprime.tasks.formats.eurus:EurusReader", r"is no reader: name an object with a name, a tuple of fields and read\(row\)"),
        ("oprime.tasks.formats.eurus:VERIFIER_OF_ABILITY", r"is no reader"),
    ],
)
def test_a_reader_that_cannot_be_used_is_refused(tmp_path: Path, reader: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load_tasks(TasksSection(train=write(tmp_path, EURUS), reader=reader), "train")
