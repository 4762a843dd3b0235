"""Runs: their folders, the rows of metrics.jsonl, and what the coordinator says."""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from oprime_gateway.models import QueueStatus, RunCard, RunStatus
from oprime_proto.v1 import coordinator_pb2 as pb

METRICS_FILE = "metrics.jsonl"
MAX_READ_BYTES = 4 * 1024 * 1024
RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

STATES = {
    pb.RUN_STATE_STARTING: "starting",
    pb.RUN_STATE_TRAINING: "training",
    pb.RUN_STATE_EVALUATING: "evaluating",
    pb.RUN_STATE_FINISHED: "finished",
    pb.RUN_STATE_SERVING: "serving",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricRows:
    rows: list[dict[str, object]]
    cursor: int
    """Byte position after the last complete row."""
    reset: bool
    """These rows do not continue those before the given cursor."""


def list_runs(directory: Path, active: str) -> list[RunCard]:
    """Every run in the folder of runs, and the active one even before it has a folder."""
    found = (
        {path.name for path in directory.iterdir() if path.is_dir() and RUN_NAME.fullmatch(path.name)} if directory.is_dir() else set[str]()
    )
    return [
        RunCard(name=name, active=name == active, steps_recorded=(directory / name / METRICS_FILE).is_file())
        for name in sorted(found | {active})
    ]


def read_metrics(folder: Path, cursor: int | None, tail: int) -> MetricRows:
    """Rows after `cursor`, or the last `tail` ones. At most 4 MiB at a time, never a half-written row."""
    path = folder / METRICS_FILE
    if not path.is_file():
        return MetricRows(rows=[], cursor=0, reset=True)
    size = path.stat().st_size
    with path.open("rb") as file:
        # A resumed run cuts its file back to the last committed step.
        goes_on = cursor is not None and cursor <= size and _begins_a_row(file, cursor)
        start = cursor if cursor is not None and goes_on else max(0, size - MAX_READ_BYTES)
        file.seek(start)
        data = file.read(MAX_READ_BYTES)
    end = data.rfind(b"\n") + 1
    lines = data[:end].splitlines()
    if start > 0 and not goes_on:
        lines = lines[1:]  # its beginning was not read
    rows = [row for row in map(_row, lines) if row is not None]
    return MetricRows(rows=rows if goes_on else rows[-tail:], cursor=start + end, reset=not goes_on)


def _begins_a_row(file: BinaryIO, position: int) -> bool:
    if position == 0:
        return True
    file.seek(position - 1)
    return file.read(1) == b"\n"


def _row(line: bytes) -> dict[str, object] | None:
    try:
        row: Any = json.loads(line, parse_constant=lambda _: None)
    except ValueError:
        return None
    return cast(dict[str, object], row) if isinstance(row, dict) else None


def run_status(answer: pb.CoordinatorServiceStatusResponse) -> RunStatus:
    return RunStatus(
        state=STATES.get(answer.state, "unknown"),
        step=answer.step,
        total_steps=answer.total_steps,
        cut_batches=answer.cut_batches,
        live_groups=answer.live_groups,
        ready_groups=answer.ready_groups,
        acceptance_rate=_finite(answer.acceptance_rate),
        bottleneck=answer.bottleneck,
        stalled=answer.stalled,
        ledger=dict(answer.ledger),
        queues=[
            QueueStatus(stream=queue.stream, waiting=queue.waiting, pending=queue.pending, oldest_seconds=queue.oldest_seconds)
            for queue in answer.queues
        ],
        metrics={name: _finite(value) for name, value in sorted(answer.metrics.items())},
    )


def _finite(value: float) -> float | None:
    """JSON has no word for infinity or for what is not a number."""
    return value if math.isfinite(value) else None
