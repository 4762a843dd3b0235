"""How a stateful service (PRM, learner) works through its batches: in order, each from the state the one before it left.

Entries are held until a checkpoint contains their effect. After a crash the service loads its checkpoint, gets the same
entries again and repeats them; their commits have marks, so each counts once.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import structlog

from oprime.ports import Clock, Delivery, Streams, Values
from oprime.runtime.consume import patiently
from oprime.runtime.errors import RunEndedError, UnusableInputError

log = structlog.get_logger()

ItemT = TypeVar("ItemT")

RECEIVE_WAIT_S = 0.2
START_FROM = "run/start_from"
"""Value that the coordinator sets when the run's state is settled."""
SKIPPED = "skipped"
"""Metric, 1 in the result of a step whose batch could not be used: no model was trained, and the rollouts of the batch are dead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointPlan:
    every: int
    last: int

    def due(self, step: int) -> bool:
        return step % self.every == 0 or step == self.last


async def wait_for_start(queue: Values, clock: Clock, stopping: asyncio.Event) -> None:
    """Wait until the coordinator has settled which checkpoints count."""
    while not stopping.is_set() and await patiently(lambda: queue.value(START_FROM), clock) is None:
        await clock.sleep(0.1)


class Work(Protocol[ItemT]):
    """What is done with the batches."""

    def decode(self, delivery: Delivery) -> ItemT:
        """The batch of an entry; runs in a thread. Raises UnusableInputError for one that cannot be used."""
        ...

    async def handle(self, step: int, item: ItemT, payload: bytes) -> None: ...

    async def skip(self, step: int, reason: str) -> None:
        """Commit what stands for a batch that cannot be used, so that the steps after it go on."""
        ...

    async def save(self, step: int) -> None: ...

    async def released(self, step: int, items: Sequence[ItemT]) -> None:
        """No restart of this service can come back to `items`, the last of which is of `step`."""
        ...

    async def idle(self) -> None:
        """No batch waits: time for a moment's work that may also wait."""
        ...


async def work_in_order(
    queue: Streams,
    stream: str,
    consumer: str,
    work: Work[ItemT],
    *,
    done_step: int,
    plan: CheckpointPlan,
    clock: Clock,
    stopping: asyncio.Event,
) -> None:
    """Do `work` on the batches after `done_step` (what the loaded checkpoint contains), saving by `plan`, until `stopping`.

    The key of an entry is its step. One that cannot be decoded is skipped, and set aside for a person when a checkpoint contains the
    step, as another is acknowledged: until then a restart needs it to know that no step is missing.

    Raises RunEndedError when a batch is missing: the state would silently be wrong, and a restart finds the same.
    """
    held: list[_Held[ItemT]] = []
    waiting = await patiently(lambda: queue.receive_again(stream, consumer), clock)
    log.info("working_in_order", stream=stream, done_step=done_step, held=len(waiting))
    while not stopping.is_set():
        delivery = waiting.pop(0) if waiting else await _next(queue, stream, consumer, clock)
        if delivery is None:
            await work.idle()
            continue
        step = _step_of(delivery)
        if step is None:
            await _release(queue, [_Held(delivery, None, f"its key {delivery.key!r} is no step")], clock)
            continue
        if step > done_step + 1:
            raise _gap(stream, step, done_step)
        entry = await patiently(lambda delivery=delivery: _decoded(work, delivery), clock)
        held.append(entry)
        if step > done_step:
            await (work.skip(step, entry.reason) if entry.item is None else work.handle(step, entry.item, delivery.payload))
            done_step = step
            if plan.due(step):
                await work.save(step)
        if plan.due(step):
            released, held = held, []
            await _release(queue, released, clock)
            await work.released(step, [one.item for one in released if one.item is not None])


async def _next(queue: Streams, stream: str, consumer: str, clock: Clock) -> Delivery | None:
    """The next entry, if one comes soon."""
    taken = await patiently(lambda: queue.receive_held(stream, consumer, most=1, wait_s=RECEIVE_WAIT_S), clock)
    return taken[0] if taken else None


@dataclass(frozen=True, slots=True)
class _Held(Generic[ItemT]):
    delivery: Delivery
    item: ItemT | None
    reason: str = ""
    """Why there is no item."""


def _step_of(delivery: Delivery) -> int | None:
    return int(delivery.key) if delivery.key.isascii() and delivery.key.isdigit() else None


async def _decoded(work: Work[ItemT], delivery: Delivery) -> "_Held[ItemT]":
    """In a thread: batches are large, and heartbeats go on."""
    try:
        return _Held(delivery, await asyncio.to_thread(work.decode, delivery))
    except UnusableInputError as error:
        return _Held(delivery, None, str(error))


async def _release(queue: Streams, entries: "list[_Held[ItemT]]", clock: Clock) -> None:
    """Let go of entries that no restart needs; those with a reason against them become dead letters."""
    for held in entries:
        if held.reason:
            log.warning("dead_letter", stream=held.delivery.stream, key=held.delivery.key, reason=held.reason)
            await patiently(lambda held=held: queue.dead_letter(held.delivery, reason=held.reason), clock)
    done = [held.delivery for held in entries if not held.reason]
    if done:
        await patiently(lambda: queue.acknowledge(done), clock)


def _gap(stream: str, step: int, done_step: int) -> RunEndedError:
    return RunEndedError(
        f"{stream}: got batch {step} after batch {done_step}: those between are gone and no checkpoint contains them; "
        "remove the queue's data and resume from the newest complete checkpoint (oprime resume)"
    )
