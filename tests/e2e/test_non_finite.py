"""A gradient or loss that is no number, on one rank alone: all ranks end with the same reason, and no weight has changed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from e2e.non_finite_worker import SETUPS, faults
from e2e.test_train_engine import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

TESTS = Path(__file__).parents[1]
RANKS = 2


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Each rank's results."""
    out = tmp_path_factory.mktemp("non_finite")
    group = {"WORLD_SIZE": str(RANKS), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    clean = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])} | group
    workers = [
        subprocess.Popen(
            [sys.executable, str(TESTS / "e2e/non_finite_worker.py"), str(out)],
            env={**clean, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(RANKS)
    ]
    try:
        outputs = [worker.communicate(timeout=500)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0] * RANKS, outputs[0][-3000:]
    return [json.loads((out / f"rank-{rank}.json").read_text(encoding="utf-8")) for rank in range(RANKS)]


@pytest.mark.parametrize("fault", faults(guilty=True))
@pytest.mark.parametrize("setup", SETUPS)
def test_a_step_that_is_no_number_is_not_taken_and_ends_the_run_on_every_rank(found: list[dict[str, Any]], setup: str, fault: str) -> None:
    for rank in found:
        result = rank[f"{setup}, {fault}"]
        assert result["said"].startswith("RunEndedError: the "), result["said"]
        assert "of the model is " in result["said"]
        assert result["unharmed"]
    assert found[0][f"{setup}, {fault}"]["said"] == found[1][f"{setup}, {fault}"]["said"]
