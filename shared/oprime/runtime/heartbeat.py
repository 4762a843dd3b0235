"""What a worker reports about itself, as a value in the queue: `SERVICE/ID` -> JSON."""

import asyncio
import json
import time
from collections.abc import Callable, Mapping

import structlog

from oprime.ports import Metrics, Values
from oprime.runtime.errors import QueueUnavailableError

log = structlog.get_logger()


def silent_after_s(every_s: float) -> float:
    """Who reports every `every_s` seconds and has not done so for longer than this is taken for gone."""
    return max(10.0, 6 * every_s)


class BusyMeter:
    """Seconds spent at work and waiting. At work means that at least one piece of work is under way."""

    def __init__(self, metrics: Metrics | None = None) -> None:
        """`metrics` count the seconds too."""
        self._since = time.monotonic()
        self._running = 0
        self._metrics = metrics
        self.busy_s = 0.0
        self.idle_s = 0.0

    def _settle(self) -> None:
        now = time.monotonic()
        seconds, self._since = now - self._since, now
        if self._running:
            self.busy_s += seconds
        else:
            self.idle_s += seconds
        if self._metrics is not None:
            self._metrics.count("busy_seconds_total", seconds if self._running else 0.0)
            self._metrics.count("idle_seconds_total", 0.0 if self._running else seconds)

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
    queue: Values, name: str, status: Callable[[], Mapping[str, object]], *, every_s: float, stopping: asyncio.Event
) -> None:
    """Write `status()` with the wall time as value `name` until `stopping` is set. The report of a process that died expires."""
    while not stopping.is_set():
        payload = json.dumps({**status(), "heartbeat": time.time()}).encode()
        try:
            await queue.set_value(name, payload, expires_s=silent_after_s(every_s))
        except QueueUnavailableError as error:
            log.warning("queue_unavailable", error=str(error))
        await asyncio.sleep(every_s)
