"""A run whose requests for rewards are answered by replicas: they follow the PRM's versions while it trains."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from e2e.command_line import processes_of, resolved, start_oprime
from e2e.conftest import small_run, wait_for_step

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]

BODY = {"inputs": [{"prompt": "3 +8 -5 ?", "response": "=1 =6 #6"}], "granularity": ["token"]}


def answer_from(run: Path, **fields: Any) -> dict[str, Any]:
    answer = httpx.post(f"http://{resolved(run)['endpoints']['gateway']}/v1/rewards", json={**BODY, **fields}, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def wait_until_ready(run: Path, *, within_s: float) -> None:
    ends = time.monotonic() + within_s
    while httpx.get(f"http://{resolved(run)['endpoints']['gateway']}/readyz", timeout=60).status_code != 200:
        assert time.monotonic() < ends, [log.read_text(encoding="utf-8")[-1000:] for log in (run / "logs").glob("scorer-*.log")]
        time.sleep(0.5)


def test_replicas_answer_with_the_version_that_trains_and_leave_the_prm_alone(starting_model: Path, tmp_path: Path) -> None:
    arguments = small_run(starting_model, tmp_path, "scored", **{"run.steps": 500, "scoring.replicas": 2, "scoring.poll_s": 0.1})
    process = start_oprime(*arguments, log=tmp_path / "train.log")
    run = tmp_path / "scored"
    try:
        wait_for_step(run, 2, timeout_s=300)
        # Training waits for no replica.
        wait_until_ready(run, within_s=120)
        seen: set[int] = set()
        ends = time.monotonic() + 120
        while len(seen) < 3 and time.monotonic() < ends:
            answer = answer_from(run)
            seen.add(answer["prm_version"])
            time.sleep(0.1)
        assert len(seen) >= 3
        assert max(seen) >= 2
        # The version that the PRM starts from is its own reference.
        start = answer_from(run, model="prm@0")
        assert set(start["data"][0]["tokens"]["rewards"]) == {0.0}
        assert any(reward != 0 for reward in answer["data"][0]["tokens"]["rewards"])
        log = (run / "logs" / "scorer-0.log").read_text(encoding="utf-8")
        assert "weights_followed" in log
    finally:
        os.kill(process.pid, signal.SIGINT)
        process.wait(60)
    assert processes_of(run) == []
