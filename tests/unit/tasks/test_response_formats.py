"""Response-level data and solutions with labelled steps: each format, and how a faulty row is named."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from oprime.core.types import ChatMessage
from oprime.runtime.errors import SettingsError
from oprime.tasks.chain import Teacher, first_wrong_step, parse_problem
from oprime.tasks.response_formats.chain import labelled_row, teacher_responses
from oprime.tasks.response_formats.registry import FORMATS, open_responses
from oprime.tasks.responses import LabelledResponses, read_responses
from oprime.tasks.rows import BadRowError, RawRow
from oprime.tasks.step_records import read_steps

PROMPT = (ChatMessage(role="user", content="2 + 2?"),)
CONVERSATION = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
ROWS: dict[str, dict[str, Any]] = {
    "labelled": {"prompt": "2 + 2?", "responses": ["4", "5"], "labels": [1, 0.25], "answers": ["4", "5"]},
    "ultrainteract": {"dataset": "x", "prompt": "2 + 2?", "completions": ["4", "5"], "correctness": [True, False]},
    "eurusprm": {"response": CONVERSATION, "label": 1, "dataset": "x"},
    "pointwise": {"conversation": CONVERSATION, "label": 0},
}


def read(row: dict[str, Any], file: Path, reader: str = "") -> LabelledResponses:
    file.write_text(json.dumps(row) + "\n")
    chosen, rows = open_responses(str(file), "offline_prm.data", reader, "offline_prm.reader")
    return read_responses(next(rows), chosen)


def test_every_format_is_recognised_by_its_first_row(tmp_path: Path) -> None:
    assert {one.name for one in FORMATS} == ROWS.keys()
    file = tmp_path / "rows.jsonl"
    for name, row in ROWS.items():
        file.write_text(json.dumps(row) + "\n")
        assert open_responses(str(file), "x", "", "y")[0].name == name
        assert read(row, file).messages == PROMPT


def test_responses_come_with_their_outcomes(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    assert read(ROWS["labelled"], file) == LabelledResponses(
        messages=PROMPT, responses=("4", "5"), outcome_rewards=(1.0, 0.25), answers=("4", "5")
    )
    assert read({**ROWS["labelled"], "answers": ["4", ""]}, file).answers == ("4", "")
    assert read(ROWS["ultrainteract"], file) == LabelledResponses(messages=PROMPT, responses=("4", "5"), outcome_rewards=(1.0, 0.0))
    assert read(ROWS["eurusprm"], file) == LabelledResponses(messages=PROMPT, responses=("4",), outcome_rewards=(1.0,))
    assert read(ROWS["pointwise"], file).outcome_rewards == (0.0,)


def test_a_prompt_may_be_a_conversation(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "Add."}, {"role": "user", "content": "2 + 2?"}]
    found = read({**ROWS["labelled"], "prompt": turns}, tmp_path / "rows.jsonl")
    assert [message.role for message in found.messages] == ["system", "user"]


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("labelled", {"labels": [1]}, "responses: responses without labels: needs at least one response and a label for each, not 2 and 1"),
        ("labelled", {"labels": [1, 2]}, "labels[1]: wrong label: must be true, false or a number from 0 (wrong) to 1 (right), not 2"),
        ("labelled", {"responses": ["4", ""]}, "responses: wrong responses: must be a list of texts that are not empty"),
        ("labelled", {"answers": ["4", 5]}, "answers: wrong answers: must be a list of texts, not ['4', 5]"),
        ("labelled", {"prompt": ""}, "prompt: missing prompt"),
        ("ultrainteract", {"correctness": "yes"}, "correctness: wrong label: must be a list with a label per response, not 'yes'"),
        ("eurusprm", {"response": CONVERSATION[:1]}, "response[0].role: wrong role: the last turn must be the assistant's"),
        ("eurusprm", {"response": CONVERSATION[1:]}, "response: missing prompt: the response must follow a turn of the user"),
        ("pointwise", {"label": None}, "label: wrong label: must be true, false or a number"),
    ],
)
def test_a_faulty_row_is_named_with_field_and_rule(name: str, change: dict[str, Any], said: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    with pytest.raises(BadRowError, match=re.escape(f"{file}, row 1, {said}")):
        read({**ROWS[name], **change}, file, name)


def test_a_reader_of_ones_own_is_named_as_a_plug_in(tmp_path: Path) -> None:
    plug_in = tmp_path / "own.py"
    plug_in.write_text(
        "from oprime.core.types import ChatMessage\n"
        "from oprime.tasks.responses import LabelledResponses\n"
        "class Own:\n"
        "    name, fields = 'own', ()\n"
        "    def read(self, row):\n"
        "        ask, text, good = row.value\n"
        "        return LabelledResponses(messages=(ChatMessage(role='user', content=ask),), responses=(text,), outcome_rewards=(good,))\n"
        "READER = Own()\n"
    )
    file = tmp_path / "rows.jsonl"
    file.write_text('[["2 + 2?", "4", 1.0]]')
    reader, rows = open_responses(str(file), "x", f"{plug_in}:READER", "offline_prm.reader")
    with pytest.raises(BadRowError, match="no object"):
        read_responses(next(rows), reader)
    assert reader.read(RawRow(origin="x", value=["2 + 2?", "4", 1.0])).messages == PROMPT
    with pytest.raises(SettingsError, match=r"offline_prm.reader = mine: no such reader; oprime has labelled, ultrainteract, eurusprm"):
        open_responses(str(file), "x", "mine", "offline_prm.reader")


def test_the_teachers_responses_are_labelled_by_their_answers() -> None:
    found = teacher_responses(Teacher(7), "heldout", 3, 6, 8)
    assert found == teacher_responses(Teacher(7), "heldout", 3, 6, 8)
    assert found != teacher_responses(Teacher(7), "heldout", 4, 6, 8)
    posed = parse_problem(found.messages[0].content)
    assert len(set(found.responses)) > 1
    for response, outcome, answer in zip(found.responses, found.outcome_rewards, found.answers, strict=True):
        assert answer == response.split()[-1]
        assert outcome == float(answer == f"#{posed.ground_truth}")
        # A response that is right throughout answers right; the other way round an error may cancel out.
        assert outcome == 1.0 or first_wrong_step(posed.prompt, response) is not None
    assert labelled_row(found)["labels"] == list(found.outcome_rewards)


def test_an_array_is_read_as_rows_are(tmp_path: Path) -> None:
    solutions = [{"problem": "p", "steps": ["a", "b"], "label": label, "id": "x"} for label in (1, -1)]
    array, lines = tmp_path / "array.json", tmp_path / "lines.jsonl"
    array.write_text(json.dumps(solutions, indent=1))
    lines.write_text("".join(json.dumps(one) + "\n" for one in solutions))
    assert list(read_steps(str(array), "FILE")) == list(read_steps(str(lines), "FILE"))
    assert [one.wrong_steps for one in read_steps(str(array), "FILE")] == [(1,), ()]


def test_prmbench_counts_wrong_steps_from_1(tmp_path: Path) -> None:
    file = tmp_path / "prmbench.jsonl"
    row = {"modified_question": "q", "modified_process": ["a", "b", "c"], "error_steps": [2, 3], "classification": "circular", "idx": "x"}
    file.write_text(json.dumps(row))
    (found,) = read_steps(str(file), "FILE")
    assert (found.problem, found.wrong_steps, found.kind) == ("q", (1, 2), "circular")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"problem": "p", "steps": ["a"], "label": 1}, r"label: wrong label: must be the place of the first wrong step, 0 to 0, or -1"),
        ({"problem": "p", "steps": [], "label": 1}, r"steps: wrong steps: must be a list of texts"),
        ({"modified_question": "q", "modified_process": ["a"], "error_steps": [0]}, r"error_steps: wrong label: .* places from 1 to 1"),
    ],
)
def test_a_faulty_solution_is_named(row: dict[str, Any], said: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    file.write_text(json.dumps([row]))
    with pytest.raises(BadRowError, match=rf"row 1, {said}"):
        list(read_steps(str(file), "FILE"))
