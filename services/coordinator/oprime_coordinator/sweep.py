"""Ends payloads that a death left behind: whoever ends a rollout drops what was written of it, unless it dies in between."""

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence

import structlog

from oprime.core.payload_needs import MATERIAL, is_known, rollouts_of, unneeded
from oprime.ports import Clock, Metrics, Payloads, Queue, payload_owner, payload_written_at
from oprime.runtime.consume import patiently
from oprime.runtime.errors import QueueUnavailableError
from oprime.runtime.releases import released_steps
from oprime.runtime.run_end import all_have_left
from oprime_coordinator.bottleneck import STAGES

log = structlog.get_logger()

EVERY_S = 60.0
LAST_ANSWERS_S = 15.0
"""How long a finished coordinator goes on answering at least: gateways learn from it that the run is over."""
OTHERS_LEAVE_S = 120.0
"""How long it waits for the others to end; they may be saving their last checkpoint."""
STATES_AT_ONCE = 1000


class Sweep:
    def __init__(self, queue: Queue, payloads: Payloads, clock: Clock, *, group_size: int, trainers: Sequence[str], lease_s: float) -> None:
        """`group_size` counts all rollouts of a group, `trainers` are those of the run. Nothing younger than two leases is touched:
        what is being written now belongs to a commit that is still to come."""
        self._queue = queue
        self._payloads = payloads
        self._clock = clock
        self._group_size = group_size
        self._trainers = trainers
        self._grace_s = 2 * lease_s
        self.stored = 0
        """Payloads that the last sweep found."""

    async def run(self, metrics: Metrics) -> None:
        """Sweep now and then, for ever."""
        metrics.count("payloads_orphaned_total", 0)
        while True:
            try:
                metrics.count("payloads_orphaned_total", await self.once())
                metrics.gauge("payloads_stored", self.stored)
            except QueueUnavailableError as error:
                log.warning("sweep_put_off", error=str(error))
            await self._clock.sleep(EVERY_S)

    async def last(self) -> None:
        """After a run whose services end with it: once the others have left, drop what they left behind."""
        await self._clock.sleep(LAST_ANSWERS_S)
        gone = await all_have_left(self._queue, STAGES, self._clock, within_s=OTHERS_LEAVE_S)
        if not gone:
            log.warning("others_stayed", waited_s=OTHERS_LEAVE_S)
        await patiently(lambda: self.once(grace_s=0 if gone else None), self._clock)

    async def once(self, *, grace_s: float | None = None) -> int:
        """Drop what nobody needs; returns how many payloads that were. A `grace_s` of 0 says that nothing is to come any more."""
        grace_s = self._grace_s if grace_s is None else grace_s
        found = await asyncio.to_thread(lambda: list(self._payloads.names()))
        self.stored = len(found)
        now = time.time()
        names = {name: payload_owner(name) for name in found if grace_s == 0 or now - payload_written_at(name) >= grace_s}
        states = await self._states(names.values())
        if grace_s > 0:
            # What judges a group is written before its tickets are committed, and the queue may have been away for long.
            names = {name: owner for name, owner in names.items() if not self._is_to_be_issued(owner, states)}
        released = await released_steps(self._queue, self._trainers)
        needless = list(unneeded(names, states, released, group_size=self._group_size))
        if needless:
            await asyncio.to_thread(self._payloads.delete, needless)
            log.info("payloads_swept", swept=len(needless), stored=len(found))
        return len(needless)

    def _is_to_be_issued(self, owner: str, states: Mapping[str, str]) -> bool:
        return owner.startswith(f"{MATERIAL}/") and states.keys().isdisjoint(rollouts_of(owner, group_size=self._group_size))

    async def _states(self, owners: Iterable[str]) -> dict[str, str]:
        rollouts = sorted({name for owner in owners if is_known(owner) for name in rollouts_of(owner, group_size=self._group_size)})
        states: dict[str, str] = {}
        for start in range(0, len(rollouts), STATES_AT_ONCE):
            states |= await self._queue.ledger_states(rollouts[start : start + STATES_AT_ONCE])
        return states
