"""How far an evaluation is: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from types import TracebackType
from typing import Any, Self

SAY_EVERY_S = 10.0


class Progress:
    """Call it with the number of samples that are settled."""

    def __init__(self, name: str, total: int) -> None:
        self._name = name
        self._total = total
        self._bar: Any = None
        self._task: Any = None
        self._said = time.monotonic()

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._bar.start()
            self._task = self._bar.add_task(self._name, total=self._total)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, settled: int) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=settled)
            return
        now = time.monotonic()
        if now - self._said >= SAY_EVERY_S:
            self._said = now
            sys.stderr.write(f"{self._name}: {settled:,} of {self._total:,} samples\n")
            sys.stderr.flush()
