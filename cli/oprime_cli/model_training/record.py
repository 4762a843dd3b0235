"""What a training says of itself as it goes on: a line per step and evaluation in its folder, and the same to trackers."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from oprime.runtime.errors import CheckpointError
from oprime.runtime.metrics_file import MetricsFile
from oprime.runtime.tracking import Tracking


class Record:
    """Rank 0's. What is known of steps after `done` is forgotten: they will be taken again."""

    def __init__(self, path: Path, tracking: Tracking, done: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`path` is the file of lines. Raises CheckpointError if it cannot be read or written."""
        self._path = path
        self._tracking = tracking
        self._clock = clock
        with self._writing():
            self._file = MetricsFile(path)
            self._file.forget_after(done)
        self._elapsed_before = max((float(str(row["elapsed_s"])) for row in self._file.rows), default=0.0)
        self._began = self._last = clock()

    def step(self, number: int, values: Mapping[str, float]) -> None:
        """A step that has just been taken. `tokens`, where it is among the values, gives the speed."""
        now = self._clock()
        seconds, self._last = now - self._last, now
        speed = {"tokens_per_second": values["tokens"] / seconds} if "tokens" in values and seconds > 0 else {}
        self._append("step", number, {**values, "seconds": seconds, **speed})

    def evaluation(self, number: int, values: Mapping[str, float]) -> None:
        """An evaluation after so many steps. Its time is not that of the next step."""
        now = self._clock()
        seconds, self._last = now - self._last, now
        self._append("evaluation", number, {**values, "seconds": seconds})

    def close(self) -> None:
        self._tracking.close()

    def _append(self, kind: str, number: int, values: Mapping[str, float]) -> None:
        with self._writing():
            self._file.append({"kind": kind, "step": number, **values, "elapsed_s": self._elapsed_before + self._clock() - self._began})
        self._tracking.row(self._file.rows[-1])

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CheckpointError.unwritable(self._path, error) from error
