"""A gradient or loss that is no number, on one rank alone: all ranks end with the same reason, and no weight has changed."""

import json
from typing import Any

import pytest

from e2e.forked import run_ranks
from e2e.non_finite_worker import SETUPS, faults
from e2e.test_train_engine import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

RANKS = 2


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Each rank's results."""
    out = tmp_path_factory.mktemp("non_finite")
    run_ranks("e2e.non_finite_worker", (out,), ranks=RANKS, port=free_port(), output=out, timeout_s=500)
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
