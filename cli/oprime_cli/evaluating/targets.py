"""What `oprime eval` is asked to evaluate: a run's weights, a model, a server, or a file of recorded responses."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from oprime.adapters.store_weights import StoreWeights, model_directory
from oprime.evaluation.of_run import EVALUATIONS
from oprime.runtime.errors import SettingsError, WeightsRefusedError
from oprime_cli.paths import is_local_model
from oprime_cli.running.failures import UsageError
from oprime_cli.running.run_folder import RUNS, RunFolder, find_run, to_document

ADAPTER_CONFIG = "adapter_config.json"
"""PEFT's name for the file that makes a directory an adapter."""
SETTINGS = ("model", "generator", "verifier", "learner")
"""Sections of a run's settings that say how its weights are loaded and judged; of the learner's, what its adapters are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    kind: Literal["run", "model", "url", "responses"]
    name: str
    """For people."""
    place: str
    """Model directory, URL or file."""
    adapter: Path | None = None
    """Of a run that publishes adapters: the one that goes on the model in `place`."""
    folder: Path
    """Where results go by default."""
    identity: Mapping[str, Any]
    """What samples of it are told apart by: an evaluation goes on with the same alone."""
    step: int | None = None
    """Of a run: the weight version."""
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Of a run: the sections of its settings that say how its weights are loaded and judged."""


def find_target(text: str, *, model: str = "") -> Target:
    """`model` names one of a server's models. Raises UsageError for what is none of these, SettingsError for weights that are not there."""
    if text.startswith(("http://", "https://")):
        return server_target(text, model)
    if model:
        raise UsageError(f"--model {model} names a model of a server, and {text} is none: give its URL")
    if text.endswith(".jsonl"):
        return _responses(Path(text))
    if (named := _named_run(text)) is not None:
        return _run(*named)
    return _model(text)


def results_folder(text: str) -> Path:
    """Where the results of RUN@STEP are, whose weights need not be there any more, or those of anything else that `find_target` finds."""
    folder, step = _named_run(text) or (None, None)
    if folder is not None and step is not None:
        return folder.path / EVALUATIONS / step_name(step)
    return find_target(text).folder


def _named_run(text: str) -> tuple[RunFolder, int | None] | None:
    """The run of RUN[@STEP], and the step; None for what names no run. Raises UsageError for a run@step without such a run."""
    path, at, step = text.rpartition("@")
    pinned = bool(at) and step.isdecimal()
    run = path if pinned else text
    if pinned or any(RunFolder(place.absolute()).exists() for place in (Path(run), RUNS / run)):
        return find_run(run), int(step) if pinned else None
    return None


def _run(folder: RunFolder, step: int | None) -> Target:
    config = folder.load_settings()
    url = config.store.url or str(folder.path / "weights")
    model = model_directory(config.model.path)
    store = StoreWeights(url, template=model, dtype=config.model.dtype)
    versions = store.versions()
    if not versions:
        raise SettingsError(f"run {config.run.name} has no weights in {url} yet: evaluate it when it has begun")
    chosen = versions[-1] if step is None else step
    if chosen not in versions:
        raise SettingsError(f"{folder.path}@{chosen}: the run has no such weight version; it has {_listed(versions)}")
    try:
        weights = store.fetch(chosen)
    except WeightsRefusedError as error:
        raise SettingsError(f"{folder.path}@{chosen} cannot be evaluated: {error}") from error
    is_adapter = (weights.directory / ADAPTER_CONFIG).is_file()
    document = to_document(config)
    return Target(
        kind="run",
        name=f"{config.run.name}@{chosen}",
        place=str(_first_weights(store, model) if is_adapter else weights.directory),
        adapter=weights.directory if is_adapter else None,
        folder=folder.path / EVALUATIONS / step_name(chosen),
        identity={"run": config.run.name, "step": chosen},
        step=chosen,
        settings={name: document[name] for name in SETTINGS if name in document},
    )


def _first_weights(store: StoreWeights, model: Path) -> Path:
    """The model that a run's adapters go on: version 0, or, once the store has it no more, the model that it was made from."""
    try:
        return store.fetch(0).directory
    except WeightsRefusedError:
        return model


def step_name(step: int) -> str:
    """Folder of the evaluations after a step."""
    return f"step-{step:06d}"


def _model(text: str) -> Target:
    if is_local_model(text) and not (Path(text) / "config.json").is_file():
        raise UsageError(
            f"{text} is no run (a folder with config.toml, or a name in ./runs), no model (a directory with config.json, or OWNER/NAME of "
            "the hub), no URL, and no .jsonl file of responses"
        )
    directory = model_directory(text)
    name = directory.name if Path(text).is_dir() else text
    return Target(
        kind="model",
        name=name,
        place=str(directory),
        folder=Path(EVALUATIONS) / _file_name(name),
        identity={"model": name, "weights": _weights_of(directory)},
    )


def server_target(url: str, model: str) -> Target:
    """A server's model; an empty name stands for its only one, which must be asked for before anything is kept."""
    place = url.rstrip("/")
    name = f"{place} {model}".strip()
    return Target(kind="url", name=name, place=place, folder=Path(EVALUATIONS) / _file_name(name), identity={"url": place, "model": model})


def _responses(path: Path) -> Target:
    if not path.is_file():
        raise UsageError(f"{path}: no such file; give a file of recorded responses, a run, a model or a URL")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Target(
        kind="responses",
        name=path.name,
        place=str(path),
        folder=Path(EVALUATIONS) / _file_name(path.stem),
        identity={"responses": path.name, "sha256": digest},
    )


def _weights_of(directory: Path) -> str:
    """Changes whenever the weights or the template of a model do. Reads the small files, and of the large ones sizes and times."""
    parts: list[Any] = []
    for file in sorted(directory.iterdir()):
        if file.suffix in (".json", ".jinja", ".safetensors"):
            told = file.stat()
            large = file.suffix == ".safetensors"
            parts.append([file.name, told.st_size, told.st_mtime_ns if large else hashlib.sha256(file.read_bytes()).hexdigest()])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _file_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text.removeprefix("http://").removeprefix("https://")).strip("-.") or "model"


def _listed(versions: Sequence[int]) -> str:
    shown = [str(version) for version in versions[-10:]]
    return ", ".join(shown if len(versions) <= 10 else ["...", *shown])
