"""The loop that every queue worker runs.

The handler commits its delivery itself, after the work. A crash repeats work; it loses none.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from oprime.ports import Clock, Delivery, Metrics, Queue, Streams
from oprime.runtime.errors import QueueUnavailableError, UnusableInputError

log = structlog.get_logger()

ResultT = TypeVar("ResultT")

BACKOFF_S = (0.2, 0.5, 1.0, 2.0, 5.0)
RECEIVE_WAIT_S = 1.0
LOOK_AGAIN_S = 0.2
"""How soon a full worker notices that it may hold more."""


async def patiently(call: Callable[[], Awaitable[ResultT]], clock: Clock) -> ResultT:
    """Repeat a queue call until the queue answers: finished work is not thrown away because Redis was away for a moment."""
    failures = 0
    while True:
        try:
            return await call()
        except QueueUnavailableError as error:
            log.warning("queue_unavailable", error=str(error))
            await clock.sleep(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)])
            failures += 1


async def check_server(queue: Queue, clock: Clock, stopping: asyncio.Event) -> None:
    """Wait until the queue answers, and check its server: what every service begins with. Raises SettingsError."""
    checking = asyncio.create_task(patiently(queue.check_server, clock))
    stop = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({checking, stop}, return_when=asyncio.FIRST_COMPLETED)
        if checking.done():
            checking.result()
    finally:
        for task in (checking, stop):
            task.cancel()
        await asyncio.gather(checking, stop, return_exceptions=True)


async def consume(
    queue: Streams,
    stream: str,
    consumer: str,
    handle: Callable[[Delivery], Awaitable[None]],
    *,
    concurrency: int | Callable[[], int],
    lease_s: float,
    clock: Clock,
    stopping: asyncio.Event,
    metrics: Metrics,
) -> None:
    """Hand each delivery of `stream` to `handle`, at most `concurrency` (which may change) at once, until `stopping` is set.

    Leases of deliveries in work are renewed. UnusableInputError sets the entry aside as a dead letter; after any other
    error the entry comes back when its lease has run out. What is in work at a stop is given back: others get it at once,
    and a clean stop is not counted as a failed delivery.
    """
    metrics.count("queue_redeliveries_total", 0, stream=stream)
    held: dict[str, Delivery] = {}
    tasks: set[asyncio.Task[None]] = set()
    renewing = asyncio.create_task(_renew(queue, consumer, held, lease_s, clock))
    try:
        while not stopping.is_set():
            most = (concurrency if isinstance(concurrency, int) else concurrency()) - len(held)
            if most <= 0:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED, timeout=LOOK_AGAIN_S)
                continue
            for delivery in await patiently(lambda most=most: queue.receive(stream, consumer, most=most, wait_s=RECEIVE_WAIT_S), clock):
                if delivery.attempt > 1:
                    metrics.count("queue_redeliveries_total", stream=stream)
                held[delivery.entry] = delivery
                task = asyncio.create_task(_handle_one(queue, handle, delivery, held))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
    finally:
        renewing.cancel()
        unfinished = list(held.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(renewing, *tasks, return_exceptions=True)
        await _give_back(queue, consumer, unfinished)


async def _give_back(queue: Streams, consumer: str, deliveries: list[Delivery]) -> None:
    """One try: a queue that is away as well lets the leases run out."""
    try:
        await queue.give_back(deliveries, consumer)
    except QueueUnavailableError as error:
        log.warning("queue_unavailable", error=str(error))


async def _handle_one(queue: Streams, handle: Callable[[Delivery], Awaitable[None]], delivery: Delivery, held: dict[str, Delivery]) -> None:
    try:
        await handle(delivery)
    except UnusableInputError as error:
        await _set_aside(queue, delivery, str(error))
    except Exception:
        # The entry stays pending: its lease runs out, another attempt follows, and after the last one it is a dead letter.
        log.exception("handling_failed", stream=delivery.stream, key=delivery.key, attempt=delivery.attempt)
    finally:
        held.pop(delivery.entry, None)


async def _set_aside(queue: Streams, delivery: Delivery, reason: str) -> None:
    log.warning("dead_letter", stream=delivery.stream, key=delivery.key, reason=reason)
    try:
        await queue.dead_letter(delivery, reason=reason)
    except QueueUnavailableError as error:
        log.warning("queue_unavailable", stream=delivery.stream, error=str(error))


async def _renew(queue: Streams, consumer: str, held: dict[str, Delivery], lease_s: float, clock: Clock) -> None:
    while True:
        await clock.sleep(lease_s / 3)
        if not held:
            continue
        try:
            await queue.renew(list(held.values()), consumer)
        except QueueUnavailableError as error:
            log.warning("queue_unavailable", error=str(error))
