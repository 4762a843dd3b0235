"""The background work of a service: how it ends."""

import asyncio
import subprocess
import sys

import pytest
from structlog.testing import capture_logs

from oprime.runtime import process
from oprime.runtime.process import Lifecycle


async def test_work_that_takes_its_cancellation_for_a_time_out_ends_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "CANCEL_AGAIN_S", 0.05)
    cancelled = 0

    async def hard_of_hearing() -> None:
        nonlocal cancelled
        while True:
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                cancelled += 1
                if cancelled > 1:
                    raise

    async def ends() -> None:
        await asyncio.sleep(0.05)
        raise ValueError("this one failed")

    lifecycle = Lifecycle()
    with capture_logs() as logs, pytest.raises(ValueError, match="this one failed"):
        await asyncio.wait_for(lifecycle.run(hard_of_hearing(), ends()), 30)
    assert cancelled == 2
    (entry,) = (entry for entry in logs if entry["event"] == "cancelled_again")
    assert "hard_of_hearing" in entry["work"][0]


OF_ITS_OWN = """
import asyncio, gc
from oprime.runtime.process import Lifecycle

async def frozen(**settings):
    lifecycle = Lifecycle(**settings)
    lifecycle.stopping.set()
    await lifecycle.run()
    return gc.get_freeze_count()

print(asyncio.run(frozen()), asyncio.run(frozen(own_process=True)) > 1000)
"""


def test_the_garbage_collector_passes_over_what_a_service_imported_but_not_over_what_others_did() -> None:
    ended = subprocess.run([sys.executable, "-c", OF_ITS_OWN], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["0", "True"]
