"""Paths in settings: which are local, and what they are from any directory."""

from pathlib import Path

from oprime_cli.run_config import RunConfig


def absolute_paths(config: RunConfig) -> RunConfig:
    """The settings with every local path made absolute, so that they mean the same from any directory."""

    # What the warm-up makes is a directory, also while it looks like a hub id.
    made_here = set() if config.sft is None else {config.sft.output or config.model.path}

    def local(text: str) -> str:
        return str(Path(text).absolute()) if text and "://" not in text else text

    def model(text: str) -> str:
        return local(text) if text and (text in made_here or is_local_model(text)) else text

    password = config.queue.password_file
    keys = config.gateway.api_keys_file
    changes = {
        "run": config.run.model_copy(update={"directory": config.run.directory.absolute()}),
        "model": config.model.model_copy(update={"path": model(config.model.path)}),
        "tasks": config.tasks.model_copy(update={"train": local(config.tasks.train), "heldout": local(config.tasks.heldout)}),
        "queue": config.queue.model_copy(update={"password_file": password.absolute() if password else None}),
        "store": config.store.model_copy(update={"url": local(config.store.url)}),
        "prm": config.prm.model_copy(update={name: model(getattr(config.prm, name)) for name in ("initial_model", "reference_model")}),
        "gateway": config.gateway.model_copy(update={"api_keys_file": keys.absolute() if keys else None}),
    }
    if config.sft is not None:
        sft = {"output": local(config.sft.output), "demonstrations": local(config.sft.demonstrations)}
        changes["sft"] = config.sft.model_copy(update=sft)
    return config.model_copy(update=changes)


def is_local_model(text: str) -> bool:
    """Whether a model is named by a path; OWNER/NAME that is no directory here is a hub id."""
    path = Path(text)
    hub_like = text.count("/") == 1 and not text.startswith((".", "/", "~")) and not text.endswith("/")
    return path.exists() or not hub_like or path.parent.is_dir()
