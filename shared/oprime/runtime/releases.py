"""When payloads of batches end: as soon as no trainer of the run can come back to their step."""

import asyncio
from collections.abc import Sequence

from oprime.ports import Clock, Payloads, Values
from oprime.runtime.consume import patiently

RELEASED = "released/"
"""Values: the newest step that a trainer's checkpoint contains, by trainer."""


async def released_steps(queue: Values, trainers: Sequence[str]) -> dict[str, int]:
    """The newest step that each trainer's checkpoint contains; 0 for one that did not say yet."""
    values = await queue.values(RELEASED)
    return {trainer: int(values.get(RELEASED + trainer, b"0")) for trainer in trainers}


class Releases:
    """One trainer's part. The last of them to have a checkpoint finds that all have, and still holds the names."""

    def __init__(self, trainer: str, trainers: Sequence[str], queue: Values, payloads: Payloads, clock: Clock) -> None:
        """`trainers` are all of the run, this one included."""
        self._trainer = trainer
        self._trainers = trainers
        self._queue = queue
        self._payloads = payloads
        self._clock = clock
        self._waiting: list[tuple[int, list[str]]] = []
        """Step and names of what another trainer may come back to."""

    async def say(self, step: int) -> None:
        """This trainer's newest checkpoint contains `step`."""
        await patiently(lambda: self._queue.set_value(RELEASED + self._trainer, str(step).encode()), self._clock)

    async def release(self, step: int, own: Sequence[str], shared: Sequence[str]) -> None:
        """Drop `own`, which this trainer alone reads, and as much of what all read as no trainer can come back to. `shared` is of the
        steps up to `step`."""
        await self.say(step)
        self._waiting.append((step, list(shared)))
        released = await patiently(lambda: released_steps(self._queue, self._trainers), self._clock)
        oldest = min(released.values())
        ended = [name for upto, names in self._waiting if upto <= oldest for name in names]
        await drop_payloads(self._payloads, [*own, *ended], self._clock)
        self._waiting = [waiting for waiting in self._waiting if waiting[0] > oldest]


async def drop_payloads(payloads: Payloads, names: Sequence[str], clock: Clock) -> None:
    """Delete payloads, however long their store is away."""
    if names:
        await patiently(lambda: asyncio.to_thread(payloads.delete, names), clock)
