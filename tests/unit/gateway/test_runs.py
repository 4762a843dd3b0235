import json
from pathlib import Path

from oprime_gateway.runs import list_runs, read_metrics


def write(folder: Path, *rows: dict[str, object], tail: str = "") -> None:
    text = "".join(json.dumps(row) + "\n" for row in rows) + tail
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")


def step(number: int) -> dict[str, object]:
    return {"kind": "step", "step": number}


def test_the_last_rows_come_first_and_then_only_new_ones(tmp_path: Path) -> None:
    write(tmp_path, step(1), step(2), step(3))
    read = read_metrics(tmp_path, None, 2)
    assert (read.rows, read.reset) == ([step(2), step(3)], True)
    write(tmp_path, step(1), step(2), step(3), step(4))
    later = read_metrics(tmp_path, read.cursor, 2)
    assert (later.rows, later.reset) == ([step(4)], False)
    assert read_metrics(tmp_path, later.cursor, 2).rows == []


def test_a_half_written_row_waits_for_its_end(tmp_path: Path) -> None:
    write(tmp_path, step(1), tail='{"kind": "st')
    read = read_metrics(tmp_path, None, 10)
    assert read.rows == [step(1)]
    write(tmp_path, step(1), step(2))
    assert read_metrics(tmp_path, read.cursor, 10).rows == [step(2)]


def test_a_file_that_was_cut_back_is_read_anew(tmp_path: Path) -> None:
    write(tmp_path, step(1), step(2), step(3))
    cursor = read_metrics(tmp_path, None, 10).cursor
    write(tmp_path, step(1))
    read = read_metrics(tmp_path, cursor, 10)
    assert (read.rows, read.reset) == ([step(1)], True)


def test_a_cursor_inside_a_row_is_not_trusted(tmp_path: Path) -> None:
    write(tmp_path, step(1), step(2))
    read = read_metrics(tmp_path, 5, 10)
    assert (read.rows, read.reset) == ([step(1), step(2)], True)


def test_what_is_not_a_number_becomes_null_and_what_is_not_a_row_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"a": NaN, "b": -Infinity}\nnot json\n[1]\n{"c": 1}\n', encoding="utf-8")
    assert read_metrics(tmp_path, None, 10).rows == [{"a": None, "b": None}, {"c": 1}]


def test_no_metrics_yet(tmp_path: Path) -> None:
    read = read_metrics(tmp_path, None, 10)
    assert (read.rows, read.cursor, read.reset) == ([], 0, True)


def test_runs_are_folders_with_a_run_s_name(tmp_path: Path) -> None:
    for name in ("b", "a", ".hidden"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").touch()
    write(tmp_path / "a", step(1))
    cards = [(card.name, card.active, card.steps_recorded) for card in list_runs(tmp_path, "c")]
    assert cards == [("a", False, True), ("b", False, False), ("c", True, False)]
    assert [card.name for card in list_runs(tmp_path / "absent", "c")] == ["c"]
