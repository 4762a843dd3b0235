"""MLflow. The only module that imports mlflow."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param  # pyright: ignore[reportMissingImports]
from mlflow.tracking import MlflowClient  # pyright: ignore[reportMissingImports]
from mlflow.utils.time import get_current_time_millis  # pyright: ignore[reportMissingImports]

from oprime.ports import TableRow, TrackedRun

SERVER = "MLFLOW_TRACKING_URI"
"""MLflow's own environment variable."""
RUN_ID = "oprime.run"
"""Tag by which a run that goes on is found again."""
MOST_PARAMETERS = 100
"""Of one call."""
LONGEST_PARAMETER = 6000


class MlflowTracker:
    """Implements `oprime.ports.Tracker` with a client of its own, so that no state of the process is touched."""

    def __init__(self, run: TrackedRun, run_id: str, *, url: str, offline: bool) -> None:
        files = run.directory / "mlflow"
        server = "" if offline else url or os.environ.get(SERVER, "")
        if not server:
            files.mkdir(parents=True, exist_ok=True)
        self._client = MlflowClient(tracking_uri=server or f"sqlite:///{files / 'mlflow.db'}")
        self._run = self._run_of(run, run_id, None if server else files / "artifacts")

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        now = get_current_time_millis()
        self._client.log_batch(self._run, metrics=[Metric(_name(name), value, now, step) for name, value in values.items()])

    def table(self, step: int, name: str, rows: Sequence[TableRow]) -> None:
        table = {"columns": list(rows[0]), "data": [list(row.values()) for row in rows]}
        self._client.log_dict(self._run, table, f"{_name(name)}/step-{step:06d}.json")

    def close(self) -> None:
        self._client.set_terminated(self._run)

    def _run_of(self, run: TrackedRun, run_id: str, artifacts: Path | None) -> str:
        known = self._client.get_experiment_by_name(run.project)
        experiment = known.experiment_id if known else self._client.create_experiment(run.project, str(artifacts) if artifacts else None)
        earlier = self._client.search_runs([experiment], filter_string=f"tags.`{RUN_ID}` = '{run_id}'", max_results=1)
        if earlier:
            self._client.update_run(earlier[0].info.run_id, status="RUNNING")
            return earlier[0].info.run_id
        made = self._client.create_run(experiment, run_name=run.name, tags={RUN_ID: run_id, "mlflow.source.git.commit": run.commit})
        parameters = list(_parameters(run.settings))
        for first in range(0, len(parameters), MOST_PARAMETERS):
            self._client.log_batch(made.info.run_id, params=parameters[first : first + MOST_PARAMETERS])
        self._client.log_dict(made.info.run_id, dict(run.settings), "settings.json")
        return made.info.run_id


def _parameters(settings: Mapping[str, Any], prefix: str = "") -> Iterator[Param]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _parameters(value, f"{prefix}{name}.")
        else:
            yield Param(_name(f"{prefix}{name}"), str(value)[:LONGEST_PARAMETER])


def _name(name: str) -> str:
    """MLflow takes letters, digits and some signs."""
    return "".join(letter if letter.isalnum() or letter in "_-. /" else "_" for letter in name)
