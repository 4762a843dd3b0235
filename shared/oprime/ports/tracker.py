"""A place outside of a run's own files where its numbers are shown: an experiment tracker."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

Cell = str | float | int | bool | None
TableRow = Mapping[str, Cell]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedRun:
    """What a tracker is told once, as a run begins or goes on."""

    project: str
    name: str
    directory: Path
    """Where trackers keep files of their own."""
    settings: Mapping[str, Any]
    """Section -> setting -> value."""
    commit: str
    """Of the source tree that runs; empty outside of one."""
    done: int = 0
    """Steps that were taken before: what the tracker knows of later ones never was."""


class Tracker(Protocol):
    """Any call may take long, and may raise anything; `oprime.runtime.tracking` keeps that from the run."""

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of a step, all of them finite."""
        ...

    def table(self, step: int, name: str, rows: Sequence[TableRow]) -> None:
        """Rows of a step, which all have the same columns."""
        ...

    def close(self) -> None:
        """All that was said is kept."""
        ...
