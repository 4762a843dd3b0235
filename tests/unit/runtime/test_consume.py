"""The loop of a queue worker, on the queue in memory."""

import asyncio

from fakes import ManualClock
from oprime.adapters.memory_queue import MemoryQueue
from oprime.ports import TICKETS, Delivery, Output
from oprime.runtime.consume import consume
from simulation.world import NoMetrics

MAX_DELIVERIES = 3


async def test_clean_stops_in_the_middle_of_an_entry_never_make_it_a_dead_letter() -> None:
    clock = ManualClock()
    queue = MemoryQueue(clock, lease_s=30, max_deliveries=MAX_DELIVERIES)
    await queue.commit("issue:1", outputs=[Output(stream=TICKETS, key="1", payload=b"")])
    for stop in range(2 * MAX_DELIVERIES):
        stopping, began = asyncio.Event(), asyncio.Event()

        async def handle(delivery: Delivery, began: asyncio.Event = began) -> None:
            assert delivery.attempt == 1
            began.set()
            await asyncio.Event().wait()

        worker = asyncio.create_task(
            consume(
                queue,
                TICKETS,
                f"worker-{stop}",
                handle,
                concurrency=2,
                lease_s=30,
                clock=clock,
                stopping=stopping,
                metrics=NoMetrics(),
            )
        )
        # No time passes: what the worker before gave back is there at once.
        await asyncio.wait_for(began.wait(), 5)
        stopping.set()
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)
    assert await queue.dead_letters() == []
    (delivery,) = await queue.receive(TICKETS, "last", wait_s=0)
    assert delivery.attempt == 1
