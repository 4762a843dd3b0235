"""RUN/metrics.jsonl: one JSON object per line, appended whole."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path


class MetricsFile:
    """Appends rows; a line that a crash cut short is removed on opening."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rows = self._repair()

    def _repair(self) -> list[dict[str, object]]:
        if not self._path.exists():
            return []
        data = self._path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if whole != data:
            with self._path.open("r+b") as file:
                file.truncate(len(whole))
        return [json.loads(line) for line in whole.splitlines()]

    def last_step(self) -> int:
        return max((int(str(row["step"])) for row in self.rows if row["kind"] == "step"), default=0)

    def evaluated(self, step: int) -> bool:
        return any(row["kind"] == "evaluation" and row["step"] == step for row in self.rows)

    def benchmarked(self, step: int) -> tuple[str, ...]:
        """The benchmarks that were evaluated after a step."""
        return tuple(str(row["benchmark"]) for row in self.rows if row["kind"] == "benchmark" and row["step"] == step)

    def forget_after(self, step: int) -> None:
        """Remove the rows of later steps: the run goes back to `step`."""
        kept = [row for row in self.rows if int(str(row["step"])) <= step]
        if len(kept) == len(self.rows):
            return
        partial = self._path.with_suffix(".partial")
        partial.write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in kept))
        partial.replace(self._path)
        self.rows = kept

    def append(self, row: Mapping[str, object]) -> None:
        clean = {name: _finite(value) for name, value in row.items()}
        self.rows.append(clean)
        with self._path.open("ab") as file:
            file.write(json.dumps(clean).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def _finite(value: object) -> object:
    """JSON has no NaN; a metric without a value is null."""
    if isinstance(value, float):
        return round(value, 9) if math.isfinite(value) else None
    return value
