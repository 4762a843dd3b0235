"""Adapters for tests. They keep their port's contract; nothing here is a mock."""

import asyncio
import heapq
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

from oprime.ports import TableRow

LOOP_TURNS = 20
"""Turns of the event loop that woken tasks get before time goes on."""


class ManualClock:
    """A Clock that stands still until a test moves it."""

    def __init__(self, start: float = 1_000.0) -> None:
        self._now = start
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = count()

    def now(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        """Wait until `advance` has moved the clock by `seconds`; 0 or less only lets others run."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._order), woken))
        await woken

    def advance(self, seconds: float) -> None:
        """Move the clock; whoever has slept long enough runs once the caller waits for something."""
        self._now += seconds
        while self._sleepers and self._sleepers[0][0] <= self._now:
            _, _, woken = heapq.heappop(self._sleepers)
            if not woken.done():
                woken.set_result(None)

    async def run_for(self, seconds: float) -> None:
        """Move the clock from one sleeper's time to the next, and let each run before time goes on."""
        ends = self._now + seconds
        await _let_others_run()
        while self._now < ends:
            self._sleepers = [sleeper for sleeper in self._sleepers if not sleeper[2].done()]
            heapq.heapify(self._sleepers)
            wakes = self._sleepers[0][0] if self._sleepers else ends
            target = min(wakes, ends)
            self.advance(target - self._now)
            self._now = target
            await _let_others_run()


async def _let_others_run() -> None:
    for _ in range(LOOP_TURNS):
        await asyncio.sleep(0)


class OneRank:
    """The RankChannel of a service that runs in this process alone."""

    rank, world_size, shares_prompts = 0, 1, False

    def broadcast(self, payload: bytes | None) -> bytes:
        return payload or b""

    def post(self, notice: bytes) -> None:
        """Nobody else is there."""

    def notice(self) -> bytes | None:
        return None

    def close(self) -> None:
        """Nobody to part from."""


class NotingTracker:
    """A Tracker that keeps what it is told."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        self.heard.append((step, dict(values)))

    def table(self, step: int, name: str, rows: Sequence[TableRow]) -> None:
        self.heard.append((step, name, list(rows)))

    def close(self) -> None:
        self.heard.append("closed")
