"""What a worker reports, and that a dead worker's report ends."""

import asyncio
import json

import pytest

from fakes import ManualClock
from oprime.adapters.memory_queue import MemoryQueue
from oprime.runtime.heartbeat import report_heartbeats, silent_after_s


@pytest.mark.parametrize(("every_s", "expires_s"), [(0.01, 10.0), (1.0, 10.0), (5.0, 30.0)])
async def test_the_report_of_a_process_that_died_expires(every_s: float, expires_s: float) -> None:
    clock = ManualClock()
    queue = MemoryQueue(clock, lease_s=5)
    stopping = asyncio.Event()
    reporting = asyncio.create_task(
        report_heartbeats(queue, "generator/a", lambda: {"weight_version": 3}, every_s=every_s, stopping=stopping)
    )
    await asyncio.sleep(0.005)
    reporting.cancel()
    clock.advance(expires_s - 0.1)
    assert json.loads((await queue.values("generator/"))["generator/a"])["weight_version"] == 3
    clock.advance(0.2)
    assert await queue.values("generator/") == {}
    assert silent_after_s(every_s) == expires_s
