"""Lines of JSONL files in another encoding."""

import codecs
from pathlib import Path

import pytest

from oprime_cli.json_lines import json_of
from oprime_cli.scoring.answer_file import rows_of
from oprime_cli.verifying.rows import parse_row

UTF_16 = codecs.BOM_UTF16_LE + '{"id": 1}'.encode("utf-16-le")


def test_the_mark_of_utf_8_is_no_part_of_the_line() -> None:
    assert json_of(codecs.BOM_UTF8 + '{"id": "é"}\n'.encode()) == {"id": "é"}


@pytest.mark.parametrize(("line", "place"), [(UTF_16, "byte 1 (0xff)"), (b'{"id": "\xe9"}', "byte 9 (0xe9)")])
def test_another_encoding_is_refused_with_the_rule_by_all_commands_that_read_rows(line: bytes, place: str, tmp_path: Path) -> None:
    says = f"{place} is not UTF-8; save the file as UTF-8, one JSON object per line"
    assert parse_row(line, 4).problem == f"line 4 is no request: {says}"
    (tmp_path / "rows.jsonl").write_bytes(line)
    (row,) = rows_of(tmp_path / "rows.jsonl", lambda value: "")
    assert row.problem == f"line 1 is no JSON that can be used: {says}"
