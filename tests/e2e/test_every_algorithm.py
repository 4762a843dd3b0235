"""Every estimator, PRM mode, reference and PRM loss trains the demo's model through the real services.

The table at the end is the one in docs/algorithm.md: `pytest tests/e2e/test_every_algorithm.py -m slow`.
"""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from e2e.command_line import DEMO, metric_rows, oprime, sets, summary

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1200)]

STEPS = 10
HELDOUT = 256
NOISE = 0.03
"""One standard error of a share of 256 problems: what counts as the same accuracy."""
ESTIMATORS = ("rloo", "reinforce", "grpo", "ppo", "remax", "prm_value")
OUTCOME_ONLY: dict[str, object] = {"algorithm.process_weight": 0.0}


@dataclass(frozen=True)
class Case:
    name: str
    settings: dict[str, object] = field(default_factory=dict[str, object])


def reverse(loss: str) -> dict[str, object]:
    return {"prm.update": "reverse", "prm.loss": loss}


CASES = (
    *(Case(f"{name}, process and outcome", {"algorithm.estimator": name}) for name in ESTIMATORS),
    *(Case(f"{name}, outcome only", {"algorithm.estimator": name, **OUTCOME_ONLY}) for name in ESTIMATORS),
    Case("rloo, PRM update single_forward", {"prm.update": "single_forward"}),
    Case("rloo, PRM update reverse", {"prm.update": "reverse"}),
    Case("rloo, PRM update offline, PRM from the first run", {"prm.update": "offline"}),
    Case("rloo, reference policy", {"prm.reference": "policy"}),
    Case("rloo, PRM loss dpo", reverse("dpo")),
    Case("rloo, PRM loss bon_acc", reverse("bon_acc")),
    Case("rloo, PRM loss bon_rm", reverse("bon_rm")),
)
"""The first is the default: double_forward, cross-entropy, SFT reference. Its PRM is the trained one of the offline mode."""


@pytest.fixture(scope="module")
def demo_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's own starting model."""
    output = tmp_path_factory.mktemp("demo") / "chain-sft"
    result = oprime("sft", str(DEMO), *sets({"model.path": str(output), "sft.output": str(output)}), timeout_s=900)
    assert result.returncode == 0, result.stderr
    return output


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def table() -> list[str]:
    return ["| run | greedy accuracy before | after 10 steps | sampled before | after |", "| --- | --- | --- | --- | --- |"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_ten_steps_improve_or_hold_held_out_accuracy(case: Case, demo_model: Path, runs: Path, table: list[str]) -> None:
    name = f"run-{CASES.index(case)}"
    settings: dict[str, object] = {
        "model.path": str(demo_model),
        "run.directory": str(runs),
        "run.name": name,
        "run.steps": STEPS,
        "run.evaluate_every": 0,
        "run.checkpoint_every": STEPS,
        "tasks.chain.heldout_problems": HELDOUT,
    }
    if case.settings.get("prm.update") == "offline":
        settings |= {"prm.initial_model": str(trained_prm(runs)), "prm.reference_model": str(demo_model)}
    result = oprime("train", str(DEMO), *sets(settings | case.settings), timeout_s=1100)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    run = runs / name
    assert summary(run)["ledger_closed"]
    before, *_, after = metric_rows(run, "evaluation")
    assert (before["step"], after["step"]) == (0, STEPS)
    table.append(row(case.name, before, after))
    assert after["heldout_greedy_accuracy"] >= before["heldout_greedy_accuracy"] - NOISE
    assert after["heldout_accuracy"] >= before["heldout_accuracy"] - NOISE


def test_the_table_has_a_row_for_every_run(table: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print("\n" + "\n".join(table))  # noqa: T201 - what a person ran this for
    assert len(table) == 2 + len(CASES)


def trained_prm(runs: Path) -> Path:
    """The default run's PRM after its last step; trained here if that run did not come first."""
    newest = sorted((runs / "run-0" / "prm_weights").glob("v*"))
    if not newest:
        pytest.skip("the first run of this table trains the PRM that the offline mode starts from: run the whole file")
    return newest[-1]


def row(name: str, before: dict[str, float], after: dict[str, float]) -> str:
    values = (before["heldout_greedy_accuracy"], after["heldout_greedy_accuracy"], before["heldout_accuracy"], after["heldout_accuracy"])
    return f"| {name} | " + " | ".join(f"{value:.1%}" for value in values) + " |"
