"""Runs: their folders, the rows of metrics.jsonl, and what the coordinator says."""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from oprime_gateway.models import QueueStatus, RunCard, RunStatus
from oprime_gateway.run_index import METRICS_FILE
from oprime_proto.v1 import coordinator_pb2 as pb

CONFIG_FILE = "config.toml"
SUMMARY_FILE = "summary.json"
MAX_READ_BYTES = 4 * 1024 * 1024
TAIL_BYTES = 64 * 1024
"""Of metrics.jsonl, for a line about a run: the newest rows."""
RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
"""At most as long as the name of a folder may be."""

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


def is_run(directory: Path, name: str, active: str) -> bool:
    """Whether this is the name of a run: of the active one (empty: none is), or of a folder that holds one. A model's folder is none."""
    if not RUN_NAME.fullmatch(name):
        return False
    return name == active or any((directory / name / file).is_file() for file in (CONFIG_FILE, METRICS_FILE))


def has_runs(directory: Path) -> bool:
    """Whether the folder of runs holds any."""
    return directory.is_dir() and any(is_run(directory, path.name, "") for path in directory.iterdir())


def list_runs(directory: Path, active: str) -> list[RunCard]:
    """Every run in the folder of runs, and the active one, if any, even before it has a folder."""
    found = {path.name for path in directory.iterdir() if is_run(directory, path.name, active)} if directory.is_dir() else set[str]()
    return [run_card(directory / name, active=name == active) for name in sorted(found | ({active} if active else set()))]


def run_card(folder: Path, *, active: bool) -> RunCard:
    """A run in a line, from the end of its metrics and its summary."""
    path, summary = folder / METRICS_FILE, read_object(folder / SUMMARY_FILE)
    rows = _newest_rows(path)
    return RunCard(
        name=folder.name,
        active=active,
        steps_recorded=path.is_file(),
        result=str(summary.get("result", "ok")) if summary is not None else "",
        step=_last(rows, "step", "step"),
        outcome_reward=_last(rows, "step", "outcome_reward_mean"),
        heldout_accuracy=_last(rows, "evaluation", "heldout_accuracy"),
        changed_at=path.stat().st_mtime if path.is_file() else None,
    )


def read_object(path: Path) -> dict[str, object] | None:
    """A JSON object in a file; None where there is none."""
    try:
        return _row(path.read_bytes())
    except OSError:
        return None


def _newest_rows(path: Path) -> list[dict[str, object]]:
    if not path.is_file():
        return []
    with path.open("rb") as file:
        start = max(0, path.stat().st_size - TAIL_BYTES)
        file.seek(start)
        lines = file.read(TAIL_BYTES).splitlines()
    return [row for row in map(_row, lines[1:] if start else lines) if row is not None]


def _last(rows: list[dict[str, object]], kind: str, name: str) -> float | None:
    numbers = (row[name] for row in reversed(rows) if row.get("kind") == kind and isinstance(row.get(name), int | float))
    return next((float(cast(float, number)) for number in numbers), None)


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
    return MetricRows(rows=rows if goes_on else rows[max(0, len(rows) - tail) :], cursor=start + end, reset=not goes_on)


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
