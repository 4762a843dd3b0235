"""What PRM and learner do alike: one trainer at a time, from its newest checkpoint, batch after batch, all ranks together.

takes      its stream's batches in order, and holds them until a checkpoint contains them
waits for  the coordinator to settle which checkpoints count, its lease, batches
ends       payloads of batches that no trainer of the run can come back to
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from oprime.ports import Clock, Delivery, Metrics, Payloads, Queue
from oprime.runtime.consume import check_server
from oprime.runtime.heartbeat import BusyMeter
from oprime.runtime.in_order import CheckpointPlan, wait_for_start, work_in_order
from oprime.runtime.lease import Lease
from oprime.runtime.ranks import Ranks
from oprime.runtime.releases import Releases
from oprime.runtime.run_end import end_with_run
from oprime.runtime.settings import RunSection

ItemT = TypeVar("ItemT")


class Training(Protocol[ItemT]):
    """What is particular to one of them."""

    def decode(self, delivery: Delivery) -> ItemT: ...

    async def handle(self, step: int, item: ItemT, payload: bytes) -> None: ...

    async def skip(self, step: int, reason: str) -> None: ...

    async def idle(self) -> None: ...

    def payloads_of(self, item: ItemT) -> tuple[Sequence[str], Sequence[str]]:
        """Names that this trainer alone reads, and those that all trainers of the run read."""
        ...

    def loaded(self, step: int) -> None:
        """All ranks continue after `step`."""
        ...

    def newest_checkpoint(self) -> bytes:
        """The ranks' call `load`."""
        ...

    def new_checkpoint(self, step: int) -> bytes:
        """The ranks' call `save`."""
        ...


class TrainLoop(Generic[ItemT]):
    """Runs on rank 0. `training` is set before `run`, since it commits under this loop's lease."""

    training: Training[ItemT]

    def __init__(
        self,
        name: str,
        stream: str,
        trainers: Sequence[str],
        run: RunSection,
        ranks: Ranks,
        queue: Queue,
        payloads: Payloads,
        clock: Clock,
        meter: BusyMeter,
        metrics: Metrics,
    ) -> None:
        """`trainers` are all of the run, this one included."""
        self.name = name
        self.ranks = ranks
        self.queue = queue
        self.payloads = payloads
        self.clock = clock
        self.meter = meter
        self.metrics = metrics
        self.lease = Lease(queue, clock, name)
        """A run has one of each trainer at a time."""
        self._stream = stream
        self._run = run
        self._releases = Releases(name, trainers, queue, payloads, clock)
        self._saved_step = 0
        """The newest step that this trainer's checkpoint contains."""

    async def run(self, stopping: asyncio.Event, *, ready: Callable[[], Awaitable[None]]) -> None:
        """Load the newest checkpoint, say `ready`, then work on batch after batch."""
        await check_server(self.queue, self.clock, stopping)
        await wait_for_start(self.queue, self.clock, stopping)
        if not await self.lease.take(stopping):
            return
        try:
            await self._work(stopping, ready)
        finally:
            await self.lease.release()

    async def end_with_run(self, stopping: asyncio.Event) -> None:
        """End once the run is over and the last checkpoint is saved, if the settings say so."""
        await end_with_run(self.queue, self._run, self.clock, stopping, all_done=lambda: self._saved_step >= self._run.steps)

    async def _work(self, stopping: asyncio.Event, ready: Callable[[], Awaitable[None]]) -> None:
        done_step: int = await self.ranks.call("load", await asyncio.to_thread(self.training.newest_checkpoint))
        await self._releases.say(done_step)
        self._saved_step = done_step
        self.training.loaded(done_step)
        await ready()
        plan = CheckpointPlan(every=self._run.checkpoint_every, last=self._run.steps)
        await work_in_order(self.queue, self._stream, self.name, self, done_step=done_step, plan=plan, clock=self.clock, stopping=stopping)

    async def call(self, method: str, payload: bytes = b"") -> Any:
        """Let all ranks work."""
        with self.meter:
            return await self.ranks.call(method, payload)

    # What `work_in_order` asks for

    def decode(self, delivery: Delivery) -> ItemT:
        return self.training.decode(delivery)

    async def handle(self, step: int, item: ItemT, payload: bytes) -> None:
        await self.training.handle(step, item, payload)

    async def skip(self, step: int, reason: str) -> None:
        await self.training.skip(step, reason)

    async def idle(self) -> None:
        await self.training.idle()

    async def save(self, step: int) -> None:
        await self.lease.confirm()
        await self.call("save", await asyncio.to_thread(self.training.new_checkpoint, step))

    async def released(self, step: int, items: Sequence[ItemT]) -> None:
        found = [self.training.payloads_of(item) for item in items]
        await self._releases.release(step, [name for own, _ in found for name in own], [name for _, shared in found for name in shared])
        self._saved_step = step
