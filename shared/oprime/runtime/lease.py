"""Being the only one: a service of which a run has one at a time owns a named turn in the queue.

What it commits carries the turn's fencing token, so that a process which was away for a while (a pause, a network cut) and
was replaced cannot write any more, whatever it believes.
"""

import asyncio
import os
import socket
import uuid

import structlog

from oprime.ports import Clock, Fence, Turns
from oprime.runtime.consume import patiently
from oprime.runtime.errors import FencedError, NotReadyError, QueueUnavailableError

log = structlog.get_logger()

LEASE_S = 10.0
"""Seconds after which a silent owner is replaced."""
STANDBY_S = 1.0


class Lease:
    def __init__(self, queue: Turns, clock: Clock, name: str) -> None:
        self._queue = queue
        self._clock = clock
        self._name = name
        self._owner = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._token = 0

    @property
    def fence(self) -> Fence:
        """Raises NotReadyError before the lease was taken."""
        if not self._token:
            raise NotReadyError(f"this process does not own the {self._name} of the run")
        return Fence(name=self._name, token=self._token)

    async def take(self, stopping: asyncio.Event) -> bool:
        """Wait until nobody else owns it; False if `stopping` was set before: then nothing may be written."""
        while not stopping.is_set():
            self._token = await patiently(self._take_turn, self._clock)
            if self._token:
                return True
            log.info("standing_by", reason=f"another process is the {self._name} of this run")
            await self._clock.sleep(STANDBY_S)
        return False

    async def keep(self) -> None:
        """Renew it for ever. Raises FencedError when it is lost."""
        while True:
            await self._clock.sleep(LEASE_S / 4)
            if self._token:
                await self.confirm()

    async def confirm(self) -> None:
        """Raise FencedError unless it is still one's own: before a write that the queue cannot fence, such as a file."""
        token = await patiently(self._take_turn, self._clock)
        if token != self._token:
            raise FencedError(
                f"this process is no longer the {self._name} of the run (another one took over, or the queue was emptied): it stops"
            )

    async def release(self) -> None:
        """Let the next one begin at once; a queue that is away lets the lease run out."""
        try:
            await self._queue.end_turn(self._name, self._owner)
        except QueueUnavailableError as error:
            log.warning("queue_unavailable", error=str(error))

    async def _take_turn(self) -> int:
        return await self._queue.take_turn(self._name, self._owner, seconds=LEASE_S)
