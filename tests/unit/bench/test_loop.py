"""What the loop's figures are made of."""

import json
import os
from pathlib import Path

from bench.loop import LoopResult, cpu_seconds, report, step_rows, summarise

BUSY = {"busy_generator": 0.5, "busy_verifier": 0.0, "busy_prm": 1.0, "busy_learner": 0.25}


def rows() -> list[dict[str, float]]:
    """Steps of two seconds; in each, 12 rollouts of 100 tokens are sampled and 80 tokens trained on."""
    return [
        {"elapsed_s": 2.0 * step, "rollouts": 12.0 * step, "tokens": 1200.0 * step, "trained_tokens": 80.0, "seconds_prm": 1.5, **BUSY}
        for step in range(1, 6)
    ]


def loop_result(*, bound: int = 2, prm_cpu: float = 2.0) -> LoopResult:
    cpu = [{"prm": prm_cpu * step, "generator": 0.5 * step} for step in range(1, 6)]
    return summarise(rows(), cpu, bound=bound, rollouts_per_step=8, cores=2)


def test_the_first_three_steps_are_left_out() -> None:
    found = loop_result()
    assert (found.steps, found.seconds) == (2, 4.0)
    assert (found.sampled_rollouts, found.sampled_tokens) == (24.0, 2400.0)
    assert (found.trained_rollouts, found.trained_tokens, found.rollouts_per_second) == (16, 160.0, 4.0)
    assert found.cpu == {"prm": 4.0, "generator": 1.0}
    assert found.cores_used == 5.0 / 4.0


def test_the_stage_that_is_busy_most_bounds_a_loop_that_leaves_cores_idle() -> None:
    assert loop_result().bound.startswith("prm (100% of the time")


def test_cores_that_are_all_at_work_bound_the_loop() -> None:
    assert loop_result(prm_cpu=3.4).bound == "the cores (1.95 of 2 at work), most of all prm"


def test_the_report_has_the_ratio_of_the_bounds_and_each_stages_seconds() -> None:
    text = report([loop_result(bound=0), loop_result()], 0.001)
    assert "rollouts trained per second, S = 2 over S = 0: 1.00x" in text
    assert text.count("S = 2 is bound by") == 1
    (busy,) = (line for line in text.splitlines() if line.startswith("prm: seconds busy per step"))
    assert busy.split()[-2:] == ["2.000", "2.000"]
    # 12 rollouts in 2 s at 1 ms each.
    assert "1.00 ms (0.6% of one core at S = 2)" in text


def test_a_row_that_is_still_being_written_is_left_for_later(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    assert step_rows(file) == []
    whole = [{"kind": "evaluation", "step": 0}, {"kind": "step", "step": 1}]
    file.write_text("".join(json.dumps(row) + "\n" for row in whole) + '{"kind": "st', encoding="utf-8")
    assert step_rows(file) == [{"kind": "step", "step": 1}]


def test_cpu_time_of_this_process_is_found() -> None:
    times = os.times()
    assert cpu_seconds(os.getpid())["others"] >= times.user + times.system - 0.1
