"""Conversations in files: each format, and how a faulty row or file is named."""

import json
from pathlib import Path
from typing import Any

import pytest

from oprime.core.types import ChatMessage
from oprime.runtime.errors import SettingsError
from oprime.tasks.conversation_formats.registry import FORMATS, open_conversations
from oprime.tasks.conversations import Conversation, read_conversation
from oprime.tasks.rows import BadRowError, RawRow

TURNS = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
SHAREGPT = [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]
ASKED = (ChatMessage(role="user", content="2 + 2?"), ChatMessage(role="assistant", content="4"))
ROWS: dict[str, dict[str, Any]] = {
    "messages": {"messages": TURNS, "id": 1},
    "sharegpt": {"conversations": SHAREGPT, "messages": None},
    "completion": {"prompt": "2 + 2?", "completion": "4"},
    "response": {"prompt": "2 + 2?", "response": "4"},
    "instruction": {"instruction": "2 + 2?", "input": "", "output": "4"},
}


def write(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(tmp_path: Path, row: dict[str, Any], reader: str = "") -> Conversation:
    chosen, rows = open_conversations(write(tmp_path / "d.jsonl", row), "sft.demonstrations", reader, "sft.reader")
    return read_conversation(next(rows), chosen)


def test_every_format_is_recognised_by_its_first_row_and_read(tmp_path: Path) -> None:
    assert {one.name for one in FORMATS} == ROWS.keys()
    for name, row in ROWS.items():
        assert open_conversations(write(tmp_path / "d.jsonl", row), "x", "", "y")[0].name == name
        assert read(tmp_path, row) == ASKED, name


def test_a_parquet_file_is_read_like_a_jsonl_file(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.Table.from_pylist([{**ROWS["sharegpt"], "system": None}] * 2), tmp_path / "d.parquet")
    reader, rows = open_conversations(str(tmp_path / "d.parquet"), "sft.demonstrations", "", "sft.reader")
    assert [read_conversation(row, reader) for row in rows] == [ASKED, ASKED]


@pytest.mark.parametrize("name", ["messages", "sharegpt", "completion"])
def test_the_systems_prompt_may_have_a_field_of_its_own(tmp_path: Path, name: str) -> None:
    assert read(tmp_path, {**ROWS[name], "system": "Think."}) == (ChatMessage(role="system", content="Think."), *ASKED)


def test_prompt_and_completion_may_be_turns(tmp_path: Path) -> None:
    assert read(tmp_path, {"prompt": TURNS[:1], "completion": TURNS[1:]}) == ASKED
    longer = read(tmp_path, {"prompt": [*TURNS, TURNS[0]], "completion": [*TURNS[1:], *TURNS]})
    assert [message.role for message in longer] == ["user", "assistant", "user", "assistant", "user", "assistant"]


def test_the_input_of_an_instruction_goes_on_where_it_ends(tmp_path: Path) -> None:
    found = read(tmp_path, {"instruction": "Add.", "input": "2 + 2", "output": "4"})
    assert found[0].content == "Add.\n\n2 + 2"


class ReversedReader:
    name = "reversed"
    fields = ("answer", "question")

    def read(self, row: RawRow) -> Conversation:
        return (
            ChatMessage(role="user", content=row.value["question"]),
            ChatMessage(role="assistant", content=row.value["answer"]),
        )


READER = ReversedReader()


def test_a_reader_of_ones_own_is_taken_and_its_faults_are_named(tmp_path: Path) -> None:
    mine = f"{__file__}:READER"
    assert read(tmp_path, {"question": "2 + 2?", "answer": "4"}, mine) == ASKED
    with pytest.raises(BadRowError, match=r"row: refused by the reader reversed: KeyError: 'question'"):
        read(tmp_path, {"answer": "4"}, mine)
    with pytest.raises(BadRowError, match=r"row: no usable conversation: .* none is empty"):
        read(tmp_path, {"question": " ", "answer": "4"}, mine)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"messages": []}, "messages: empty messages"),
        ({"messages": TURNS[:1]}, r"messages\[0\].role: wrong role: the last turn must be the assistant's"),
        ({"messages": TURNS[1:]}, "messages: missing prompt"),
        ({"messages": ["x"]}, r"messages\[0\]: wrong message"),
        ({"conversations": [{"from": "martian", "value": "x"}]}, r"conversations\[0\].role: wrong role: must be one of"),
        ({"conversations": [{"from": "human"}]}, r"conversations\[0\].content: empty conversations"),
        ({"prompt": "x", "completion": " "}, "completion: missing completion"),
        ({"prompt": "x", "completion": "y", "system": 3}, "system: wrong system"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, value: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRowError, match=f"d.jsonl, row 1, {message}"):
        read(tmp_path, value)


def test_a_file_with_other_columns_is_refused_at_once(tmp_path: Path) -> None:
    location = write(tmp_path / "d.jsonl", {"text": "2 + 2 = 4", "id": 1})
    with pytest.raises(SettingsError, match=r"its first row has no conversation; its fields are text, id\. Rows with one have messages,"):
        open_conversations(location, "sft.demonstrations", "", "sft.reader")


def test_a_missing_file_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"sft.demonstrations = .*: no such file"):
        open_conversations(str(tmp_path / "none.jsonl"), "sft.demonstrations", "", "sft.reader")
