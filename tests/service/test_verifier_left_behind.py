"""What a killed worker leaves behind: nothing."""

import asyncio
import json
import os
import signal
from dataclasses import replace

import psutil

from living_processes import lives
from oprime.core.verification import Verdict, VerificationRequest
from oprime_verifier.working.worker import WorkerSetup
from oprime_verifier.working.worker_pool import WorkerPool

LOOP = VerificationRequest(
    kind="code", response="while True: pass", tests=json.dumps({"inputs": ["1"], "outputs": ["1"]}), options={"bare": True, "cpu_s": 30}
)
PROOF = VerificationRequest(kind="math", response="\\sin^2 x + \\cos^2 x + x^3", golds=("x^3 + 1",), options={"bare": True})


def descendants(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


async def gone(processes: list[psutil.Process]) -> bool:
    for _ in range(200):
        if not any(lives(process) for process in processes):
            return True
        await asyncio.sleep(0.05)
    return False


async def test_a_worker_that_is_killed_takes_its_sandbox_and_its_proofs_with_it() -> None:
    pool = WorkerPool(WorkerSetup(memory_bytes=2**32, deadline_s=60.0), workers=1, attempts=1)
    await pool.start()
    try:
        assert (await pool.judge(PROOF)).verdict is Verdict.CORRECT
        running = asyncio.create_task(pool.judge(LOOP))
        worker = pool.pids[0]
        async with asyncio.timeout(30):
            # The proofs' process, the zygote (perhaps behind a namespace's first process), the looping program.
            while len(descendants(worker)) < 3:  # noqa: ASYNC110 - other processes
                await asyncio.sleep(0.02)
        left = descendants(worker)
        os.kill(worker, signal.SIGKILL)
        outcome = await running
        assert (outcome.verdict, outcome.score) == (Verdict.INFRA_ERROR, None)
        assert await gone(left), [process.cmdline() for process in left if process.is_running()]
    finally:
        await pool.close()


async def test_a_program_that_never_ends_is_stopped_at_the_request_s_deadline() -> None:
    pool = WorkerPool(WorkerSetup(memory_bytes=2**32, deadline_s=60.0), workers=1, attempts=1)
    await pool.start()
    try:
        outcome = await pool.judge(replace(LOOP, deadline_s=3.0))
        # On a loaded host the program may not have had the time, and then it is no fault of its own.
        assert outcome.verdict in (Verdict.TIME, Verdict.INFRA_ERROR)
        assert "deadline" in outcome.reason or "time" in outcome.reason
        assert pool.killed == 0
    finally:
        await pool.close()
