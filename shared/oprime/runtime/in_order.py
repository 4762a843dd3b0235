"""How a stateful service (PRM, learner) works through its batches: in order, each from the state the one before it left.

Entries are held until a checkpoint contains their effect. After a crash the service loads its checkpoint, gets the same
entries again and repeats them; their commits have marks, so each counts once.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from oprime.ports import Clock, Delivery, Queue
from oprime.runtime.consume import patiently
from oprime.runtime.errors import OprimeError

log = structlog.get_logger()

RECEIVE_WAIT_S = 0.2
START_FROM = "run/start_from"
"""Value that the coordinator sets when the run's state is settled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointPlan:
    every: int
    last: int

    def due(self, step: int) -> bool:
        return step % self.every == 0 or step == self.last


async def wait_for_start(queue: Queue, clock: Clock, stopping: asyncio.Event) -> None:
    """Wait until the coordinator has settled which checkpoints count."""
    while not stopping.is_set() and await patiently(lambda: queue.value(START_FROM), clock) is None:
        await clock.sleep(0.1)


async def work_in_order(
    queue: Queue,
    stream: str,
    consumer: str,
    *,
    done_step: int,
    handle: Callable[[int, Delivery], Awaitable[None]],
    save: Callable[[int], Awaitable[None]],
    plan: CheckpointPlan,
    clock: Clock,
    stopping: asyncio.Event,
) -> None:
    """Handle the batches after `done_step` (what the loaded checkpoint contains), saving by `plan`, until `stopping`.

    Raises OprimeError when a batch is missing: the state would silently be wrong.
    """
    held: list[Delivery] = []
    waiting = await patiently(lambda: queue.receive_again(stream, consumer), clock)
    log.info("working_in_order", stream=stream, done_step=done_step, held=len(waiting))
    while not stopping.is_set():
        if not waiting:
            waiting = await patiently(lambda: queue.receive_held(stream, consumer, most=1, wait_s=RECEIVE_WAIT_S), clock)
            continue
        delivery = waiting.pop(0)
        step = int(delivery.key)
        held.append(delivery)
        if step > done_step:
            if step != done_step + 1:
                raise OprimeError(
                    f"{stream}: got batch {step} after batch {done_step}: those between are gone and no checkpoint contains them; "
                    "remove the queue's data and resume from the newest complete checkpoint (oprime resume)"
                )
            await handle(step, delivery)
            done_step = step
            if not plan.due(step):
                continue
            await save(step)
        elif not plan.due(step):
            continue
        released, held = held, []
        await patiently(lambda released=released: queue.acknowledge(released), clock)
