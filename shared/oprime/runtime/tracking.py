"""Tells trackers about a run without waiting for them: each has a thread of its own, and what one of them raises is a warning, once."""

import math
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog

from oprime.ports import TableRow, Tracker

log = structlog.get_logger()

MOST_WAITING = 10_000
"""Calls that wait for a slow tracker; further ones are lost."""
CLOSE_S = 20.0
"""How long a run that ends waits for its trackers."""
LONGEST_CELL = 8_000
"""Characters of a text in a table; the rest is cut."""

Opening = Callable[[], Tracker]


class Tracking:
    """All trackers of a run. No call waits, and none raises for what a tracker does."""

    def __init__(self, openings: Mapping[str, Opening] | None = None) -> None:
        """`openings` make each tracker, by its name, in the thread that will call it."""
        self._workers = [_Worker(name, opening) for name, opening in (openings or {}).items()]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(worker.name for worker in self._workers)

    def row(self, row: Mapping[str, object]) -> None:
        """A row of metrics.jsonl: its numbers, under its kind and, if it is of one, its benchmark. What is no finite number is left out."""
        place = "/".join(str(row[name]) for name in ("kind", "benchmark") if name in row)
        values = {
            f"{place}/{name}": float(value)
            for name, value in row.items()
            if name not in ("kind", "step") and isinstance(value, int | float) and math.isfinite(value)
        }
        step = int(str(row["step"]))
        self._each(lambda tracker: tracker.numbers(step, values))

    def table(self, step: int, name: str, rows: Sequence[TableRow]) -> None:
        """A table, unless it has no rows."""
        if not rows:
            return
        shown = [{column: _cell(value) for column, value in row.items()} for row in rows]
        self._each(lambda tracker: tracker.table(step, name, shown))

    def close(self) -> None:
        """Wait, not for ever, until the trackers have all that was said."""
        for worker in self._workers:
            worker.end()
        for worker in self._workers:
            worker.wait(CLOSE_S)

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for worker in self._workers:
            worker.add(call)


class _Worker:
    def __init__(self, name: str, opening: Opening) -> None:
        self.name = name
        self._calls: queue.Queue[Callable[[Tracker], None] | None] = queue.Queue(MOST_WAITING)
        self._warned = False
        self._thread = threading.Thread(target=self._run, args=(opening,), name=f"tracker-{name}", daemon=True)
        self._thread.start()

    def add(self, call: Callable[[Tracker], None] | None) -> None:
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            self._warn("it is too slow, so some of what was said is lost")

    def end(self) -> None:
        self.add(None)

    def wait(self, seconds: float) -> None:
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._warn(f"it did not end within {seconds:g} s, so the last of what was said may be lost")

    def _run(self, opening: Opening) -> None:
        tracker = self._guarded(opening)
        while (call := self._calls.get()) is not None:
            if tracker is not None:
                self._guarded(call, tracker)
        if tracker is not None:
            self._guarded(tracker.close)

    def _guarded(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """A tracker is somebody else's program: whatever it raises, or makes of the process's end, is no reason to end a run."""
        try:
            return call(*arguments)
        except (Exception, SystemExit) as error:  # noqa: BLE001
            self._warn((str(error).strip() or type(error).__name__).splitlines()[0])
            return None

    def _warn(self, reason: str) -> None:
        if not self._warned:
            self._warned = True
            log.warning("tracker_failed", tracker=self.name, reason=reason, remedy="the run goes on; later failures are not said")


def _cell(value: Any) -> Any:
    if isinstance(value, str) and len(value) > LONGEST_CELL:
        return f"{value[:LONGEST_CELL]}…"
    return value
