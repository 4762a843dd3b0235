"""What a worker reports about itself, as a value in the queue: `SERVICE/ID` -> JSON."""

import asyncio
import json
import time
from collections.abc import Callable, Mapping

import structlog

from oprime.ports import Queue
from oprime.runtime.errors import QueueUnavailableError

log = structlog.get_logger()


class BusyMeter:
    """Seconds spent at work and waiting. At work means that at least one piece of work is under way."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._running = 0
        self.busy_s = 0.0
        self.idle_s = 0.0

    def _settle(self) -> None:
        now = time.monotonic()
        if self._running:
            self.busy_s += now - self._since
        else:
            self.idle_s += now - self._since
        self._since = now

    def __enter__(self) -> None:
        self._settle()
        self._running += 1

    def __exit__(self, *_: object) -> None:
        self._settle()
        self._running -= 1

    def read(self) -> dict[str, float]:
        self._settle()
        return {"busy_seconds": self.busy_s, "idle_seconds": self.idle_s}


async def report_heartbeats(
    queue: Queue, name: str, status: Callable[[], Mapping[str, object]], *, every_s: float, stopping: asyncio.Event
) -> None:
    """Write `status()` with the wall time as value `name` until `stopping` is set."""
    while not stopping.is_set():
        payload = json.dumps({**status(), "heartbeat": time.time()}).encode()
        try:
            await queue.set_value(name, payload)
        except QueueUnavailableError as error:
            log.warning("queue_unavailable", error=str(error))
        await asyncio.sleep(every_s)
