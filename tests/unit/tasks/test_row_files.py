"""Rows in JSONL and parquet files."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from oprime.runtime.errors import SettingsError
from oprime.tasks.chain import problem
from oprime.tasks.formats.eurus import READER, chain_row
from oprime.tasks.row_files import Format, file_format, local_file, read_rows, write_rows

ROWS = [chain_row(problem("train", index, 3), index, "train") for index in range(5)]


@pytest.mark.parametrize("form", get_args(Format))
def test_what_was_written_is_read_back(tmp_path: Path, form: Format) -> None:
    path = tmp_path / "deep" / f"rows.{form}"
    assert write_rows(path, iter(ROWS), form) == 5
    assert [row.value for row in read_rows(str(path), "tasks.train")] == ROWS


def test_both_formats_hold_the_same_tasks(tmp_path: Path) -> None:
    paths = [tmp_path / "rows.jsonl", tmp_path / "rows.parquet"]
    for path, form in zip(paths, get_args(Format), strict=True):
        write_rows(path, iter(ROWS), form)
    one, other = ([READER.read(row) for row in read_rows(str(path), "tasks.train", READER.fields)] for path in paths)
    assert one == other


def test_rows_are_numbered_by_line_and_blank_lines_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n\n{"a": 2}\nnonsense\n')
    rows = list(read_rows(str(path), "tasks.train"))
    assert [(row.origin.rpartition(", ")[2], row.value) for row in rows] == [("row 1", {"a": 1}), ("row 3", {"a": 2}), ("row 4", None)]
    assert "Expecting value" in rows[2].problem


def test_a_line_that_is_no_text_is_one_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": "\xff"}\n{"a": 2}\n')
    first, second = read_rows(str(path), "tasks.train")
    assert "utf-8" in first.problem
    assert second.value == {"a": 2}


def test_parquet_rows_are_numbered_across_row_groups(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"a": list(range(600))}), path, row_group_size=100)
    rows = list(read_rows(str(path), "tasks.train"))
    assert [row.value["a"] for row in rows] == list(range(600))
    assert rows[-1].origin == f"{path}, row 600"


def test_only_the_named_columns_of_a_parquet_file_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"ability": ["math"], "solution": ["a long text"]}), path)
    (row,) = read_rows(str(path), "tasks.train", READER.fields)
    assert row.value == {"ability": "math"}


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("nowhere.jsonl", r"tasks.train = nowhere.jsonl: no such file; give"),
        ("hf://datasets/PRIME-RL/train.parquet", r"write hf://datasets/OWNER/NAME/FILE"),
        ("hf://models/PRIME-RL/Eurus/train.parquet", r"no such file"),
    ],
)
def test_a_wrong_location_is_refused_with_the_remedy(location: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        list(read_rows(location, "tasks.train"))


def test_a_format_that_is_not_known_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").touch()
    with pytest.raises(SettingsError, match=r"must end with .jsonl or .parquet"):
        list(read_rows(str(tmp_path / "rows.csv"), "tasks.train"))
    assert file_format("rows.PARQUET", "x") == "parquet"


def test_a_damaged_parquet_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1 and nothing more")
    with pytest.raises(SettingsError, match=r"tasks.train = .* cannot be read: .* Give a whole JSONL or parquet file"):
        list(read_rows(str(path), "tasks.train"))


def test_a_pattern_names_several_files_which_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for name, rows in {"b-2": [3], "b-1": [1, 2], "folder/a-1": [0]}.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(f'{{"number": {number}}}\n' for number in rows))
    found = list(read_rows(str(tmp_path / "b-*.jsonl"), "tasks.train"))
    assert [row.value["number"] for row in found] == [1, 2, 3]
    assert [row.origin.rpartition("/")[2] for row in found] == ["b-1.jsonl, row 1", "b-1.jsonl, row 2", "b-2.jsonl, row 1"]
    assert [row.value["number"] for row in read_rows(str(tmp_path / "*" / "a-?.jsonl"), "tasks.train")] == [0]
    with pytest.raises(SettingsError, match=r"c-\*.jsonl: no file has a name that fits; correct the pattern"):
        list(read_rows(str(tmp_path / "c-*.jsonl"), "tasks.train"))


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "what?.jsonl").write_text('{"number": 1}\n')
    assert [row.value["number"] for row in read_rows(str(tmp_path / "what?.jsonl"), "tasks.train")] == [1]


def test_without_a_network_the_hub_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    location = "hf://datasets/PRIME-RL/Eurus-2-RL-Data@main/train.parquet"
    with pytest.raises(
        SettingsError, match=r"tasks.train = hf://.* cannot be fetched: .* or download the file elsewhere and give its path"
    ):
        local_file(location, "tasks.train")
    with pytest.raises(SettingsError, match=r"tasks.train = hf://.*/data/train-\*.parquet cannot be fetched"):
        list(read_rows("hf://datasets/PRIME-RL/Eurus-2-RL-Data/data/train-*.parquet", "tasks.train"))


@pytest.mark.parametrize("form", get_args(Format))
def test_a_file_appears_whole_or_not_at_all(tmp_path: Path, form: Format) -> None:
    def failing() -> Iterator[dict[str, Any]]:
        yield ROWS[0]
        raise RuntimeError("the source broke")

    path = tmp_path / f"rows.{form}"
    path.write_text("what was there")
    with pytest.raises(RuntimeError, match="the source broke"):
        write_rows(path, failing(), form)
    assert path.read_text() == "what was there"
    assert list(tmp_path.iterdir()) == [path]


def test_text_is_written_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows(path, iter([{"prompt": "π ≤ 4"}]), "jsonl")
    assert path.read_text(encoding="utf-8") == '{"prompt": "π ≤ 4"}\n'
    assert json.loads(path.read_text(encoding="utf-8")) == {"prompt": "π ≤ 4"}


def test_a_compressed_file_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n{"a": 2}\n'))
    assert [row.value for row in read_rows(str(path), "tasks.train")] == [{"a": 1}, {"a": 2}]
    path.write_bytes(gzip.compress(b'{"a": 1}\n')[:-4])
    with pytest.raises(SettingsError, match=r"cannot be read: .* Give a whole JSONL or parquet file"):
        list(read_rows(str(path), "tasks.train"))


def test_an_object_of_columns_is_read_row_by_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('{"a": {"0": 1, "7": 2}, "b": {"0": "x", "7": "y"}}')
    assert [row.value for row in read_rows(str(path), "tasks.train")] == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]


@pytest.mark.parametrize("text", ['{"a": {"0": 1}, "b": {"1": 2}}', '{"a": {"0": 1}, "b": 2}', '{\n"a": 1}'])
def test_one_object_that_is_no_table_is_one_row(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows.json"
    path.write_text(text)
    assert [row.value for row in read_rows(str(path), "tasks.train")] == [json.loads(text)]
