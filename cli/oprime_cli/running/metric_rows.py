"""RUN/metrics.jsonl as it grows."""

import json
from pathlib import Path
from typing import Any

Row = dict[str, Any]
WINDOW = 10


class MetricRows:
    """The rows so far; `read_new` reads what was added. A step that a resumed run repeats counts with its newest row."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._steps: dict[int, Row] = {}
        self._evaluations: dict[int, Row] = {}

    def read_new(self) -> list[Row]:
        """Complete lines that were added since the last call; unreadable ones are passed over."""
        try:
            with self._path.open("rb") as stream:
                stream.seek(self._offset)
                added = stream.read()
        except FileNotFoundError:
            return []
        whole = added[: added.rfind(b"\n") + 1]
        self._offset += len(whole)
        rows = [row for row in map(_row, whole.splitlines()) if row is not None]
        for row in rows:
            if row["kind"] != "benchmark":
                kept = self._steps if row["kind"] == "step" else self._evaluations
                kept[row["step"]] = row
        return rows

    @property
    def steps(self) -> list[Row]:
        return [self._steps[step] for step in sorted(self._steps)]

    @property
    def evaluations(self) -> list[Row]:
        return [self._evaluations[step] for step in sorted(self._evaluations)]

    def last(self, name: str) -> float | None:
        """The newest value of a metric of steps."""
        values = _numbers(self.steps, name)
        return values[-1] if values else None

    def mean(self, name: str, window: int = WINDOW) -> float | None:
        """Mean of a metric over the last steps."""
        values = _numbers(self.steps[-window:], name)
        return sum(values) / len(values) if values else None

    def count(self, name: str, window: int = WINDOW) -> int:
        """Over how many steps `mean` is taken."""
        return len(_numbers(self.steps[-window:], name))

    def largest(self, name: str) -> float | None:
        return max(_numbers(self.steps, name), default=None)

    def before_and_after(self, name: str) -> tuple[float | None, float | None]:
        """A metric of the evaluation before the first step, and of the newest evaluation after a step. None where there is none."""
        before = _numbers([row for row in self.evaluations if row["step"] == 0], name)
        after = _numbers([row for row in self.evaluations if row["step"] > 0], name)
        return before[0] if before else None, after[-1] if after else None


def _row(line: bytes) -> Row | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    known = isinstance(row, dict) and row.get("kind") in {"step", "evaluation", "benchmark"} and isinstance(row.get("step"), int)
    return row if known else None


def _numbers(rows: list[Row], name: str) -> list[float]:
    return [float(row[name]) for row in rows if isinstance(row.get(name), int | float)]
