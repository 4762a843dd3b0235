"""`algorithm.process_weight = 0` through the real services: all but the PRM."""

import time
from pathlib import Path
from typing import Any

import pytest
import redis
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from e2e.command_line import kill_everything, metric_rows, processes_of, resolved, start_oprime, summary
from e2e.conftest import small_run, wait_for_step
from oprime.ports.payloads import payload_name

STEPS = 4
GROUPS = 4


@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_a_run_on_outcomes_alone_is_killed_resumes_and_ends_without_a_prm(starting_model: Path, tmp_path: Path) -> None:
    arguments = small_run(
        starting_model,
        tmp_path,
        "outcomes",
        **{"run.steps": STEPS, "algorithm.process_weight": 0.0, "coordinator.groups_per_batch": GROUPS, "staleness.max_staleness": 1},
    )
    run = tmp_path / "outcomes"
    process = start_oprime(*arguments, log=tmp_path / "first.log")
    try:
        wait_for_step(run, STEPS - 1, timeout_s=240)
        commands = [" ".join(one.cmdline()) for one in processes_of(run)]
    finally:
        kill_everything(process, run)
    assert any("oprime_learner" in command for command in commands)
    assert [command for command in commands if "oprime_prm" in command] == []
    assert "starting coordinator, gateway, generator, learner, verifier" in resumed(run, tmp_path / "second.log")

    steps = metric_rows(run, "step")
    assert [row["step"] for row in steps] == list(range(1, STEPS + 1))
    assert [name for row in steps for name in row if "prm" in name] == []
    done = summary(run)
    assert (done["ledger_closed"], done["prm_accuracy"], done["localisation"]) == (True, None, {})
    assert done["ledger"]["trained"] == STEPS * GROUPS * 4
    parts = {part.name for part in (run / "checkpoints" / f"step-{STEPS:06d}").iterdir()}
    assert parts == {"policy", "coordinator"}
    assert [path.name for path in run.iterdir() if path.name in ("prm_weights", "samples")] == []
    assert not (run / "logs" / "prm.log").exists()
    require_tracked(run)


def resumed(run: Path, log: Path) -> str:
    """Go on to the end, with something left behind in the last moment; returns what was said."""
    process = start_oprime("resume", str(run), log=log)
    try:
        wait_for_step(run, STEPS, timeout_s=240)
        leave_a_needless_payload(run)
        code = process.wait(timeout=240)
    finally:
        process.terminate()
        process.wait()
    assert code == 0, log.read_text(encoding="utf-8")
    return log.read_text(encoding="utf-8")


def leave_a_needless_payload(run: Path) -> None:
    """What a worker that is slow to end leaves behind: the run ends it, and accounts for itself afterwards."""
    name = payload_name("rollout/0:0", time.time() - 3600)
    with redis.Redis.from_url(resolved(run)["queue"]["url"]) as client:
        client.set(f"oprime:{{outcomes}}:payload:{name}", b"bytes")


def require_tracked(run: Path) -> None:
    """TensorBoard has each step once, whichever session took it, with the settings of the whole run."""
    events: Any = EventAccumulator(str(run / "tracking" / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    assert [event.step for event in events.Scalars("step/policy_loss")] == list(range(1, STEPS + 1))
    assert [event.step for event in events.Scalars("evaluation/heldout_accuracy")] == [0, STEPS]
    (settings,) = (event.tensor_proto.string_val[0].decode() for event in events.Tensors("settings"))
    assert '"learner": {' in settings
    assert {event.step for event in events.Tensors("evaluation/heldout")} == {0, STEPS}
