"""Paths in settings: which are local, and what they are from any directory."""

from collections.abc import Callable
from pathlib import Path

from oprime.runtime.settings import TlsSection
from oprime_cli.run_config import RunConfig


def is_local_model(text: str) -> bool:
    """Whether a model is named by a path; OWNER/NAME that is no directory here is a hub id."""
    path = Path(text)
    return path.exists() or not looks_like_hub_id(text) or path.parent.is_dir()


def looks_like_hub_id(text: str) -> bool:
    return text.count("/") == 1 and not text.startswith((".", "/", "~")) and not text.endswith("/")


def absolute_paths(config: RunConfig, *, root: Path | None = None, is_local: Callable[[str], bool] = is_local_model) -> RunConfig:
    """The settings with every local path made absolute, so that they mean the same from any directory.

    They begin at `root`, an absolute path; by default that is the current directory. `is_local` tells paths of models from hub ids.
    """
    root = root or Path.cwd()

    # What the warm-up makes is a directory, also while it looks like a hub id.
    made_here = set() if config.sft is None else {config.sft.output or config.model.path}

    def local(text: str) -> str:
        return str(root / text) if text and "://" not in text else text

    def model(text: str) -> str:
        return local(text) if text and (text in made_here or is_local(text)) else text

    def plugin(target: str) -> str:
        place, _, attribute = target.rpartition(":")
        return f"{local(place)}:{attribute}" if place.endswith(".py") else target

    def files(tls: TlsSection) -> TlsSection:
        return tls.model_copy(update={name: root / path for name, path in tls.files.items()})

    def task_file(name: str) -> str:
        return local(name) if "." in name else name

    def benchmark_file(place: str) -> str:
        name, sign, location = place.rpartition("=")
        return f"{name}{sign}{local(location)}"

    password = config.queue.password_file
    keys = config.gateway.api_keys_file
    changes = {
        "run": config.run.model_copy(
            update={
                "directory": root / config.run.directory,
                "evaluate_on": tuple(map(task_file, config.run.evaluate_on)),
                "evaluate_on_data": tuple(map(benchmark_file, config.run.evaluate_on_data)),
            }
        ),
        "model": config.model.model_copy(update={"path": model(config.model.path)}),
        "tasks": config.tasks.model_copy(
            update={"train": local(config.tasks.train), "heldout": local(config.tasks.heldout), "reader": plugin(config.tasks.reader)}
        ),
        "endpoints": config.endpoints.model_copy(update={"tls": files(config.endpoints.tls)}),
        "queue": config.queue.model_copy(update={"password_file": root / password if password else None, "tls": files(config.queue.tls)}),
        "store": config.store.model_copy(update={"url": local(config.store.url)}),
        "prm": config.prm.model_copy(update={name: model(getattr(config.prm, name)) for name in ("initial_model", "reference_model")}),
        "critic": config.critic.model_copy(update={"path": model(config.critic.path)}),
        "gateway": config.gateway.model_copy(update={"api_keys_file": root / keys if keys else None}),
    }
    if config.sft is not None:
        files_of_sft = {name: local(getattr(config.sft, name)) for name in ("output", "demonstrations", "heldout", "chat_template")}
        sft = {"start": model(config.sft.start), "reader": plugin(config.sft.reader), **files_of_sft}
        changes["sft"] = config.sft.model_copy(update=sft)
    return config.model_copy(update=changes)
