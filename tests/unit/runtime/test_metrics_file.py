"""RUN/metrics.jsonl survives what a crash does to it."""

import json
from pathlib import Path

from oprime.runtime.metrics_file import MetricsFile


def test_rows_are_appended_one_json_object_a_line(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.append({"kind": "step", "step": 1, "loss": 0.5})
    file.append({"kind": "evaluation", "step": 1})
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == [{"kind": "step", "step": 1, "loss": 0.5}, {"kind": "evaluation", "step": 1}]


def test_a_line_that_a_crash_cut_short_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"kind": "step", "step": 1}\n{"kind": "st')
    file = MetricsFile(path)
    assert file.last_step() == 1
    file.append({"kind": "step", "step": 2})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]


def test_a_metric_without_a_value_is_null(tmp_path: Path) -> None:
    MetricsFile(tmp_path / "m").append({"kind": "step", "step": 1, "loss": float("nan")})
    assert json.loads((tmp_path / "m").read_text())["loss"] is None


def test_it_knows_which_steps_were_evaluated(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "m")
    file.append({"kind": "evaluation", "step": 10})
    assert file.evaluated(10)
    assert not file.evaluated(20)


def test_a_run_that_goes_back_forgets_the_rows_of_later_steps(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    for step in (1, 2, 3):
        file.append({"kind": "step", "step": step})
    file.append({"kind": "evaluation", "step": 3})
    file.forget_after(2)
    assert [row["step"] for row in MetricsFile(tmp_path / "metrics.jsonl").rows] == [1, 2]
    assert not file.evaluated(3)
    assert file.last_step() == 2
