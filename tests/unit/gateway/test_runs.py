import json
from pathlib import Path

from oprime_gateway.runs import is_run, list_runs, read_metrics


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


def test_no_rows_are_asked_for_with_a_tail_of_none(tmp_path: Path) -> None:
    write(tmp_path, step(1), step(2))
    read = read_metrics(tmp_path, None, 0)
    assert (read.rows, read.reset) == ([], True)
    write(tmp_path, step(1), step(2), step(3))
    assert read_metrics(tmp_path, read.cursor, 0).rows == [step(3)]


def test_runs_are_folders_that_hold_one(tmp_path: Path) -> None:
    for name in ("a", "b", ".hidden", "warm-up", "x" * 255):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").touch()
    for name in ("a", ".hidden", "x" * 255):
        (tmp_path / name / "config.toml").touch()
    (tmp_path / "file").touch()
    write(tmp_path / "b", step(1))
    cards = [(card.name, card.active, card.steps_recorded) for card in list_runs(tmp_path, "c")]
    assert cards == [("a", False, False), ("b", False, True), ("c", True, False), ("x" * 255, False, False)]
    assert [card.name for card in list_runs(tmp_path / "absent", "c")] == ["c"]


def test_a_name_too_long_for_a_folder_is_no_run(tmp_path: Path) -> None:
    assert not is_run(tmp_path, "x" * 256, "c")
    assert is_run(tmp_path, "c", "c")


def test_a_run_in_a_line(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    evaluation = {"kind": "evaluation", "step": 1, "heldout_accuracy": 0.5}
    write(folder, {**step(1), "outcome_reward_mean": 0.25}, evaluation, {**step(2), "outcome_reward_mean": 0.75}, tail='{"half')
    (folder / "summary.json").write_text('{"result": "stalled"}', encoding="utf-8")
    (card,) = (card for card in list_runs(tmp_path, "a") if card.name == "a")
    assert (card.step, card.outcome_reward, card.heldout_accuracy, card.result) == (2.0, 0.75, 0.5, "stalled")
    assert card.changed_at == (folder / "metrics.jsonl").stat().st_mtime


def test_a_line_about_a_long_run_reads_the_end_of_its_metrics(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    write(folder, *({**step(number), "padding": "x" * 1000} for number in range(1, 201)))
    (card,) = list_runs(tmp_path, "a")
    assert card.step == 200
