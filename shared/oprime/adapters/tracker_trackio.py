"""trackio. The only module that imports it."""

from collections.abc import Mapping, Sequence
from typing import Any

import trackio  # pyright: ignore[reportMissingImports]

from oprime.ports import TableRow, TrackedRun


class TrackioTracker:
    """Implements `oprime.ports.Tracker` in trackio's database on this machine. A run that goes on is found there by its name, which has
    part of its id."""

    def __init__(self, run: TrackedRun, run_id: str) -> None:
        config: dict[str, Any] = {**run.settings, "commit": run.commit}
        self._run = trackio.init(
            run.project,
            name=f"{run.name}-{run_id[:6]}",
            config=config,
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def table(self, step: int, name: str, rows: Sequence[TableRow]) -> None:
        self._run.log({name: trackio.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])}, step=step)

    def close(self) -> None:
        self._run.finish()
