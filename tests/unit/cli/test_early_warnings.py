"""The note that process rewards are about to ruin a run."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from oprime_cli.running.early_warnings import early_warnings, note_of
from oprime_cli.running.live import PlainView, facts
from oprime_cli.running.metric_rows import MetricRows

FINE: dict[str, float | None] = {"process_outcome_correlation": 0.4, "prm_accuracy": 0.8}
COLLAPSING: dict[str, float | None] = {"process_outcome_correlation": -0.02, "prm_accuracy": 0.45}


def rows_of(path: Path, *values: Mapping[str, float | None]) -> MetricRows:
    path.write_text("".join(json.dumps({"kind": "step", "step": number + 1, **row}) + "\n" for number, row in enumerate(values)))
    rows = MetricRows(path)
    rows.read_new()
    return rows


def test_both_signs_are_said_with_their_numbers(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "m", *[FINE] * 20, *[COLLAPSING] * 10)
    assert early_warnings(rows) == [
        "process rewards no longer agree with outcomes (correlation -0.02 over 10 steps)",
        "the PRM tells right from wrong no better than a coin (accuracy 0.45 over 10 steps)",
    ]
    assert note_of(rows).endswith("lower algorithm.process_weight or prm.learning_rate, or see docs/operations.md")


@pytest.mark.parametrize(
    "values",
    [
        [COLLAPSING] * 19,  # a young PRM knows nothing yet
        [*[COLLAPSING] * 20, *[FINE] * 10],
        [{"outcome_reward_mean": 0.5}] * 40,  # no PRM
        [{**FINE, "process_outcome_correlation": None}] * 40,
    ],
    ids=["young", "recovered", "no PRM", "no variance"],
)
def test_nothing_is_said_without_a_sign(values: list[dict[str, float | None]], tmp_path: Path) -> None:
    assert note_of(rows_of(tmp_path / "m", *values)) == ""


def test_live_views_have_the_note_and_lines_say_it_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fine, collapsing = rows_of(tmp_path / "f", *[FINE] * 30), rows_of(tmp_path / "c", *[FINE] * 20, *[COLLAPSING] * 10)
    assert "note" not in facts(None, fine, 30, 60, None)
    assert facts(None, collapsing, 30, 60, None)["note"].startswith("process rewards no longer agree")
    with PlainView(60) as view:
        for rows in (fine, collapsing, collapsing):
            view.update(None, rows, [])
    assert capsys.readouterr().out.count("warning: process rewards no longer agree") == 1


def test_rewards_that_are_mostly_rounding_are_noted_from_the_first_steps_on_with_their_own_remedy(tmp_path: Path) -> None:
    noisy = rows_of(tmp_path / "n", {"prm_reward_signal_to_noise": 0.2}, {"prm_reward_signal_to_noise": 0.3})
    note = "process rewards are mostly rounding noise (signal to noise 0.25 over 2 steps): set prm.score_dtype=float32"
    assert note_of(noisy) == note
    assert note_of(rows_of(tmp_path / "c", *[{"prm_reward_signal_to_noise": 3.0}] * 2)) == ""
    both = rows_of(tmp_path / "b", *[{**COLLAPSING, "prm_reward_signal_to_noise": 0.25}] * 20)
    assert note_of(both).startswith("process rewards are mostly rounding noise")
    assert "set prm.score_dtype=float32. process rewards no longer agree" in note_of(both)
