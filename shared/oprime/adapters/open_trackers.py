"""The trackers that settings choose. A tracker's package is imported only where it is wanted, in the tracker's own thread."""

import uuid
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from oprime.ports import TrackedRun, Tracker
from oprime.runtime.queue_url import without_password
from oprime.runtime.settings import SECRET_NAME, TrackingSection
from oprime.runtime.tracking import Tracking

FOLDER = "tracking"
"""In a run's folder: what trackers keep."""


def open_trackers(settings: TrackingSection, run: TrackedRun) -> Tracking:
    """Trackers of a run, or of a training, that begins or goes on."""
    run_id = _run_id(run.directory) if _wanted(settings) else ""
    openings: dict[str, Callable[[], Tracker]] = {
        "tensorboard": lambda: _tensorboard(run),
        "wandb": lambda: _wandb(settings, run, run_id),
        "mlflow": lambda: _mlflow(settings, run, run_id),
        "trackio": lambda: _trackio(run, run_id),
    }
    return Tracking({name: _or_remedy(name, openings[name]) for name in _wanted(settings)})


def missing_packages(settings: TrackingSection) -> list[str]:
    """Trackers that the settings ask for and that are not installed here."""
    return [name for name in _wanted(settings) if find_spec(name) is None]


def shown_settings(document: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they may be shown elsewhere: without what could be a secret."""
    return {name: _shown(value) for name, value in document.items() if not SECRET_NAME.search(name)}


def _shown(value: Any) -> Any:
    if isinstance(value, Mapping):
        return shown_settings(value)
    if isinstance(value, list | tuple):
        return [_shown(item) for item in value]
    return without_password(value) if isinstance(value, str) else value


def _wanted(settings: TrackingSection) -> list[str]:
    has_tensorboard = settings.tensorboard == "on" or (settings.tensorboard == "auto" and find_spec("tensorboard") is not None)
    chosen = {"tensorboard": has_tensorboard, "wandb": settings.wandb, "mlflow": settings.mlflow, "trackio": settings.trackio}
    return [name for name, is_chosen in chosen.items() if is_chosen]


def _run_id(directory: Path) -> str:
    """What tells this run from others of its name, also after it was interrupted; new where nothing can be written."""
    path, made = directory / "id", uuid.uuid4().hex
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_text(made, encoding="utf-8")
        return path.read_text(encoding="utf-8").strip() or made
    except OSError:
        return made


def _or_remedy(name: str, opening: Callable[[], Tracker]) -> Callable[[], Tracker]:
    def opened() -> Tracker:
        try:
            return opening()
        except ImportError as error:
            raise RuntimeError(f"{error}: pip install 'oprime[{name}]', or leave tracking.{name} off") from error

    return opened


def _tensorboard(run: TrackedRun) -> Tracker:
    from oprime.adapters.tracker_tensorboard import TensorBoardTracker

    return TensorBoardTracker(run, run.directory / "tensorboard")


def _wandb(settings: TrackingSection, run: TrackedRun, run_id: str) -> Tracker:
    from oprime.adapters.tracker_wandb import WandbTracker

    return WandbTracker(run, run_id, offline=settings.offline)


def _mlflow(settings: TrackingSection, run: TrackedRun, run_id: str) -> Tracker:
    from oprime.adapters.tracker_mlflow import MlflowTracker

    return MlflowTracker(run, run_id, url=settings.mlflow_url, offline=settings.offline)


def _trackio(run: TrackedRun, run_id: str) -> Tracker:
    from oprime.adapters.tracker_trackio import TrackioTracker

    return TrackioTracker(run, run_id)
