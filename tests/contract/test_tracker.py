"""Every tracker shows numbers, tables and settings of a run, and a run that went on as one run; read back with its own reader."""

import json
import os
import struct
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import pytest

from oprime.ports import TrackedRun, Tracker

SETTINGS = {"run": {"name": "one"}, "learner": {"learning_rate": 1e-6, "ranks": 2}}
ROWS = [{"prompt": "2 + 2?", "response": "4 | 5\nor so", "score": 1.0}, {"prompt": "3 + 3?", "response": "7", "score": None}]


class Back(Protocol):
    """What a tracker has of a run, by its own reader."""

    def numbers(self, name: str) -> list[tuple[int, float]]: ...

    def texts(self) -> str:
        """Settings, commit and tables, as far as the reader gives them."""
        ...


def tracked(folder: Path, done: int = 0) -> TrackedRun:
    return TrackedRun(project="tests", name="one", directory=folder, settings=SETTINGS, commit="abc123", done=done)


class TensorBoardBack:
    def __init__(self, folder: Path) -> None:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        self._events: Any = EventAccumulator(str(folder / "tensorboard"), size_guidance={"tensors": 0})
        self._events.Reload()

    def numbers(self, name: str) -> list[tuple[int, float]]:
        return [(event.step, event.value) for event in self._events.Scalars(name)]

    def texts(self) -> str:
        names = self._events.Tags()["tensors"]
        return "\n".join(event.tensor_proto.string_val[0].decode() for name in names for event in self._events.Tensors(name))


def open_tensorboard(run: TrackedRun) -> Tracker:
    from oprime.adapters.tracker_tensorboard import TensorBoardTracker

    return TensorBoardTracker(run, run.directory / "tensorboard")


class WandbBack:
    """An offline run is a log of records, in the form in which `wandb sync` sends them."""

    def __init__(self, folder: Path) -> None:
        from wandb.proto import wandb_internal_pb2 as pb  # pyright: ignore[reportMissingImports]

        self._values: list[dict[str, Any]] = []
        self._texts: list[str] = []
        logs = sorted((folder / "wandb").glob("offline-run-*/*.wandb"))
        # All sessions are one run.
        assert len({path.name for path in logs}) == 1
        for path in logs:
            for data in records_of(path.read_bytes()):
                record = pb.Record()
                record.ParseFromString(data)
                if record.WhichOneof("record_type") == "history":
                    items = record.history.item
                    self._values.append({item.key or item.nested_key[0]: json.loads(item.value_json) for item in items})
                if record.WhichOneof("record_type") == "run":
                    self._texts += [str(update.value_json) for update in record.run.config.update]
        self._texts += [path.read_text() for path in (folder / "wandb").rglob("*.table.json")]

    def numbers(self, name: str) -> list[tuple[int, float]]:
        return [(int(row["train_step"]), float(row[name])) for row in self._values if name in row]

    def texts(self) -> str:
        return "\n".join(self._texts)


def records_of(log: bytes) -> Iterator[bytes]:
    """The records of an offline run: behind 7 bytes, blocks of 32 KiB with pieces of (checksum, length, kind), as LevelDB has them."""
    place, whole = 7, b""
    while place + 7 <= len(log):
        if (left := 32_768 - place % 32_768) < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", log, place)
        whole += log[place + 7 : place + 7 + length]
        place += 7 + length
        # 1 is a whole record, 4 the last piece of one.
        if kind in (1, 4):
            yield whole
            whole = b""


def open_wandb(run: TrackedRun) -> Tracker:
    from oprime.adapters.tracker_wandb import WandbTracker

    return WandbTracker(run, "idone", offline=True)


class MlflowBack:
    def __init__(self, folder: Path) -> None:
        from mlflow.tracking import MlflowClient  # pyright: ignore[reportMissingImports]

        self._client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow' / 'mlflow.db'}")
        experiment = self._client.get_experiment_by_name("tests")
        (self._run,) = self._client.search_runs([experiment.experiment_id])
        self._folder = folder

    def numbers(self, name: str) -> list[tuple[int, float]]:
        return [(metric.step, metric.value) for metric in self._client.get_metric_history(self._run.info.run_id, name)]

    def texts(self) -> str:
        files = sorted((self._folder / "mlflow" / "artifacts").rglob("*.json"))
        return "\n".join([*(path.read_text() for path in files), str(self._run.data.params), str(self._run.data.tags)])


def open_mlflow(run: TrackedRun) -> Tracker:
    from oprime.adapters.tracker_mlflow import MlflowTracker

    return MlflowTracker(run, "idone", url="", offline=True)


class TrackioBack:
    def __init__(self, _folder: Path) -> None:
        from trackio.sqlite_storage import SQLiteStorage  # pyright: ignore[reportMissingImports]

        (run,) = SQLiteStorage.get_runs("tests")
        self._logs: list[dict[str, Any]] = SQLiteStorage.get_logs("tests", run)
        self._config = SQLiteStorage.get_run_config("tests", run)

    def numbers(self, name: str) -> list[tuple[int, float]]:
        return [(int(row["step"]), float(row[name])) for row in self._logs if name in row]

    def texts(self) -> str:
        return json.dumps([self._config, *self._logs], default=str)


def open_trackio(run: TrackedRun) -> Tracker:
    from oprime.adapters.tracker_trackio import TrackioTracker

    return TrackioTracker(run, "idone")


CASES: dict[str, tuple[Callable[[TrackedRun], Tracker], Callable[[Path], Back]]] = {
    "tensorboard": (open_tensorboard, TensorBoardBack),
    "wandb": (open_wandb, WandbBack),
    "mlflow": (open_mlflow, MlflowBack),
    "trackio": (open_trackio, TrackioBack),
}


@pytest.fixture(params=CASES)
def case(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Callable[[TrackedRun], Tracker], Callable[[Path], Back]]:
    name = request.param
    if find_spec(name) is None:
        pytest.skip(f"needs the package {name}: pip install 'oprime[{name}]'")
    if name == "trackio":
        # Read when it is imported.
        monkeypatch.setenv("TRACKIO_DIR", os.environ.get("TRACKIO_DIR", str(tmp_path / "trackio")))
    return CASES[name]


# What the trackers' own programs warn of is theirs.
@pytest.mark.filterwarnings("ignore")
def test_a_run_that_went_on_is_one_run_with_its_numbers_tables_settings_and_commit(
    case: tuple[Callable[[TrackedRun], Tracker], Callable[[Path], Back]], tmp_path: Path
) -> None:
    opened, back_of = case
    first = opened(tracked(tmp_path))
    for step in (1, 2, 3):
        first.numbers(step, {"step/loss": 1.0 / step, "step/tokens": 10.0 * step})
    first.table(3, "samples/rollouts", ROWS)
    first.close()
    # Sessions within one second, whatever the number of files before them.
    again = opened(tracked(tmp_path, done=3))
    again.numbers(4, {"step/loss": 0.125})
    again.close()
    back = back_of(tmp_path)
    assert [(step, pytest.approx(value)) for step, value in back.numbers("step/loss")] == [(1, 1.0), (2, 0.5), (3, 1 / 3), (4, 0.125)]
    assert back.numbers("step/tokens") == [(1, 10.0), (2, 20.0), (3, 30.0)]
    shown = back.texts()
    assert "abc123" in shown
    assert "learning_rate" in shown
    assert "or so" in shown
    assert "3 + 3?" in shown


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="needs the package tensorboard: pip install 'oprime[tensorboard]'")
def test_tensorboard_forgets_the_steps_that_a_run_goes_back_behind(tmp_path: Path) -> None:
    first = open_tensorboard(tracked(tmp_path))
    for step in (1, 2, 3):
        first.numbers(step, {"step/loss": float(step)})
    first.close()
    again = open_tensorboard(tracked(tmp_path, done=1))
    again.numbers(2, {"step/loss": 20.0})
    again.close()
    assert TensorBoardBack(tmp_path).numbers("step/loss") == [(1, 1.0), (2, 20.0)]
