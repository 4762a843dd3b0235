"""kill -9 of everything in mid-run, then `oprime resume`."""

from pathlib import Path

import pytest
import tomli_w
from safetensors.torch import load_file

from e2e.command_line import kill_everything, metric_rows, oprime, resolved, start_oprime, summary
from e2e.conftest import small_run, wait_for_step
from golden.prime_in_one_file import Settings, train
from oprime.runtime.settings import ChainSection

STEPS = 10
GROUPS = 4
ADAM_EPS = 1e-5
"""Larger than the rounding noise of a gradient that is zero in exact arithmetic."""


def run_until_killed(*arguments: str, run: Path, step: int, log: Path) -> None:
    """`oprime` with these arguments, until kill -9 of every process once so many steps are done."""
    process = start_oprime(*arguments, log=log)
    try:
        wait_for_step(run, step, timeout_s=240)
    finally:
        kill_everything(process, run)


def edit(run: Path, section: str, **changes: object) -> None:
    document = resolved(run)
    document[section] |= changes
    (run / "config.toml").write_text(tomli_w.dumps(document), encoding="utf-8")


@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_a_killed_run_goes_on_from_its_queue_and_from_its_checkpoint_where_the_queue_is_gone(starting_model: Path, tmp_path: Path) -> None:
    arguments = small_run(
        starting_model,
        tmp_path,
        "killed",
        **{"run.steps": STEPS, "run.checkpoint_every": 3, "coordinator.groups_per_batch": GROUPS, "staleness.max_staleness": 1},
    )
    run = tmp_path / "killed"
    run_until_killed(*arguments, run=run, step=4, log=tmp_path / "first.log")
    run_until_killed("resume", str(run), run=run, step=7, log=tmp_path / "second.log")
    assert "restored_from_queue" in (run / "logs" / "coordinator.log").read_text(encoding="utf-8")

    for file in (run / "redis").rglob("*.aof*"):
        file.unlink()
    emptied = oprime("ledger", str(run), timeout_s=60)
    assert (emptied.returncode, "Redis holds nothing of run killed" in emptied.stdout) == (1, True)
    # A person's change of the run's settings counts, and one that changes what the run computes does not pass.
    edit(run, "learner", learning_rate=1e-7, updates_per_batch=2)
    refused = oprime("resume", str(run), timeout_s=60)
    assert refused.returncode == 2
    assert "learner.updates_per_batch 1 -> 2" in refused.stderr
    edit(run, "learner", updates_per_batch=1)
    result = oprime("resume", str(run), timeout_s=400)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "resuming with learner.learning_rate 0.0002 -> 1e-07" in result.stdout
    steps = metric_rows(run, "step")
    assert steps[-1]["learning_rate"] == 1e-7
    assert [row["step"] for row in steps] == list(range(1, STEPS + 1))
    assert max(row["staleness_max"] for row in steps) <= 1
    ledger = summary(run)["ledger"]
    assert ledger["trained"] == STEPS * GROUPS * 4
    assert ledger["live"] == 0
    assert ledger["issued"] == sum(count for name, count in ledger.items() if name != "issued")
    checked = oprime("ledger", str(run), timeout_s=60)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_a_killed_ppo_run_ends_with_the_policy_and_critic_of_the_plain_loop(starting_model: Path, tmp_path: Path) -> None:
    # Without the critic's weights or its optimizer's moments, the steps after the kill would be others.
    steps, rate = 5, 3e-4
    arguments = small_run(
        starting_model,
        tmp_path,
        "critic",
        **{"run.steps": steps, "run.checkpoint_every": 2, "coordinator.groups_per_batch": GROUPS, "staleness.max_staleness": 0},
        **{"algorithm.estimator": "ppo", "algorithm.trace_decay": 0.95},
        **{f"{model}.learning_rate": rate for model in ("learner", "prm", "critic")},
        **{f"{model}.adam_eps": ADAM_EPS for model in ("learner", "prm", "critic")},
    )
    run = tmp_path / "critic"
    run_until_killed(*arguments, run=run, step=3, log=tmp_path / "first.log")
    assert not (run / "checkpoints" / f"step-{steps:06d}").exists()
    result = oprime("resume", str(run), timeout_s=400)
    assert result.returncode == 0, result.stdout + result.stderr
    settings = Settings(
        steps=steps,
        groups_per_batch=GROUPS,
        estimator="ppo",
        trace_decay=0.95,
        policy_learning_rate=rate,
        prm_learning_rate=rate,
        critic_learning_rate=rate,
        adam_eps=ADAM_EPS,
        chain=ChainSection(operations=2, heldout_problems=8),
    )
    policy, _, critic = train(str(starting_model), settings)
    for part, model in (("policy", policy), ("critic", critic)):
        saved = load_file(run / "checkpoints" / f"step-{steps:06d}" / part / "state-00000.safetensors")
        apart = {name: float((saved[f"master/{name}"] - weight.detach()).abs().max()) for name, weight in model.named_parameters()}
        assert max(apart.values()) < 2e-6, f"{part}: {apart}"
