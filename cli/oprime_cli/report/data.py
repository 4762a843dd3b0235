"""What a run's folder holds for its report. Everything but config.toml may be missing while the run is young."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oprime.runtime.errors import UnusableInputError
from oprime_cli.report.benchmarks import Benchmarks, benchmarks_of
from oprime_cli.run_config import RunConfig
from oprime_cli.running.metric_rows import MetricRows
from oprime_cli.running.run_folder import RunFolder

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecords:
    """A run as its files tell it."""

    folder: Path
    config: RunConfig
    steps: tuple[Row, ...]
    """One row per train step, in order; a step that was repeated after a crash counts with its last row."""
    evaluations: tuple[Row, ...]
    """One row per held-out evaluation, in order."""
    samples: tuple[Row, ...]
    """Sampled groups with process rewards, in the order of steps."""
    summary: Row | None
    """None until the run has ended."""
    localisation: Row | None
    """None when error localisation was not measured."""
    benchmarks: Benchmarks
    """Evaluations on benchmarks and files of tasks."""
    recipe: Row | None
    """What `python -m recipe` measured of the run and what it came from; None for other runs."""


def read_run(folder: Path) -> RunRecords:
    """Read a run's folder. Raises UnusableInputError or SettingsError that name the file and what is wrong with it."""
    files = RunFolder(folder)
    if not files.exists():
        raise UnusableInputError(f"{folder} is no run folder: it has no config.toml; give the folder of a run, for example runs/demo")
    metrics = MetricRows(files.metrics)
    metrics.read_new()
    return RunRecords(
        folder=folder,
        config=RunConfig.load(files.config),
        steps=tuple(metrics.steps),
        evaluations=tuple(metrics.evaluations),
        samples=tuple(row for path in sorted((folder / "samples").glob("step-*.jsonl")) for row in _json_lines(path)),
        summary=_json_object(files.summary),
        localisation=_json_object(folder / "localisation.json"),
        benchmarks=benchmarks_of(folder),
        recipe=_json_object(folder / "recipe.json"),
    )


def _json_lines(path: Path) -> Iterator[Row]:
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").split("\n"), start=1):
        if line.strip():
            yield _parse_object(line, f"{path}:{number}")


def _json_object(path: Path) -> Row | None:
    return _parse_object(path.read_text(encoding="utf-8", errors="replace"), str(path)) if path.is_file() else None


def _parse_object(text: str, origin: str) -> Row:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UnusableInputError(f"{origin} is no JSON ({error}): the file is damaged; restore or remove it") from error
    if not isinstance(value, dict):
        raise UnusableInputError(f"{origin} is a JSON {type(value).__name__}, not an object: the file is damaged; restore or remove it")
    return value
