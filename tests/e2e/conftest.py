"""A small starting model for runs through the real services."""

import fcntl
import os
import time
from pathlib import Path

import pytest

from e2e.command_line import DEMO, metric_rows, oprime, sets

LONGEST_FIRST = (
    "test_kill_and_resume.py",
    "test_train_engine.py",
    "test_services_equal_the_plain_loop.py",
    "test_sft_ranks.py",
    "test_demo_with_vllm.py",
    "test_real_prompts.py",
    "test_two_hosts.py",
    "test_network_namespaces.py",
    "test_observed_run.py",
    "test_ranks.py",
    "test_two_engines.py",
)
"""Files of minutes. A file is one test process's, so one of these at the end would leave the others idle."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    places = [place for place, item in enumerate(items) if here in item.path.parents]
    rank = {name: number for number, name in enumerate(LONGEST_FIRST)}
    ordered = sorted((items[place] for place in places), key=lambda item: rank.get(item.path.name, len(rank)))
    for place, item in zip(places, ordered, strict=True):
        items[place] = item


@pytest.fixture(scope="session")
def starting_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chain task's model after a short supervised warm-up on short chains: it knows the form, and is right about one time in ten."""
    # All test processes share one.
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    output = folder / "starting-model"
    settings = {
        "model.path": str(output),
        "tasks.chain.operations": 2,
        "sft.steps": 120,
        "sft.batch_rows": 64,
        "sft.output": str(output),
    }
    with (folder / "starting-model.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not output.exists():
            result = oprime("sft", str(DEMO), *sets(settings), timeout_s=300)
            assert result.returncode == 0, result.stderr
    return output


def small_run(model: Path, folder: Path, name: str, **more: object) -> list[str]:
    """Arguments of `oprime train` for a run of seconds: short chains, small batches, the transformers sampler."""
    settings: dict[str, object] = {
        "run.name": name,
        "run.directory": str(folder),
        "run.steps": 3,
        "run.evaluate_every": 0,
        "run.checkpoint_every": 2,
        "model.path": str(model),
        "tasks.chain.operations": 2,
        "tasks.chain.heldout_problems": 8,
        "coordinator.groups_per_batch": 4,
        "generator.backend": "transformers",
        "queue.lease_s": 3.0,
    }
    return ["train", str(DEMO), *sets(settings | more)]


def wait_for_step(run: Path, step: int, timeout_s: float) -> None:
    ends = time.monotonic() + timeout_s
    while time.monotonic() < ends:
        if len(metric_rows(run, "step")) >= step:
            return
        time.sleep(0.1)
    raise AssertionError(f"step {step} was not committed within {timeout_s} s")
