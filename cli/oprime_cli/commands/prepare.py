"""`oprime prepare CONFIG`: what comes before the services of a run that containers or pods start."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from oprime_cli.arguments import Subparsers, add_config, command_parser

if TYPE_CHECKING:
    from oprime_cli.run_config import RunConfig
    from oprime_cli.running.run_folder import RunFolder


def add_parser(subparsers: Subparsers) -> None:
    parser = command_parser(
        subparsers,
        "prepare",
        description="Make everything ready for services that are started one by one, in containers or pods: check the settings, also "
        "against those that the run went on with last, fetch models and data from the hub, make the starting model that [sft] describes, "
        "begin the run's folder, and write the settings that the services read. Does nothing twice. Exit code 2 for settings that are "
        "refused; then nothing has changed.",
        example="oprime prepare run.toml --set queue.url=redis://redis:6379/0 --out /etc/oprime/run.toml",
    )
    add_config(parser)
    parser.add_argument("--model", metavar="MODEL", default="", help="train this model instead: replaces model.path and drops [sft]")
    parser.add_argument("--out", metavar="FILE", type=Path, help="where to write the settings, with all that --set changed")


def run(arguments: argparse.Namespace) -> int:
    from oprime_cli.console import say
    from oprime_cli.explanation import summary
    from oprime_cli.planning.plan import needs_sft
    from oprime_cli.running.run_folder import RunFolder
    from oprime_cli.running.train_run import warm_up

    config = _settings(arguments)
    folder = RunFolder(config.run.folder.absolute())
    _refuse_changes(folder, config)
    for sentence in summary(config):
        say(sentence)
    folder.begin(config)
    # A run with a summary is finished, and this one is about to go on.
    folder.summary.unlink(missing_ok=True)
    _fetch(config)
    if needs_sft(config):
        warm_up(folder, config)
    if arguments.out is not None:
        _write(arguments.out, folder.config.read_text(encoding="utf-8"))
    say(f"run {config.run.name} is ready in {folder.path}: {config.run.steps} steps, model {config.model.path}")
    return 0


def _settings(arguments: argparse.Namespace) -> "RunConfig":
    from oprime.runtime.settings import read_toml
    from oprime_cli.overrides import apply_override
    from oprime_cli.run_config import RunConfig
    from oprime_cli.running.failures import PlanRefusedError

    path = Path(arguments.config)
    document = read_toml(path)
    for text in arguments.overrides:
        apply_override(document, text)
    if arguments.model:
        document.setdefault("model", {})["path"] = arguments.model
        document.pop("sft", None)
    config = RunConfig.from_document(document, origin=f"{path} with --set" if arguments.overrides else str(path))
    problems = config.contradictions()
    if problems:
        raise PlanRefusedError(problems)
    return config


def _refuse_changes(folder: "RunFolder", config: "RunConfig") -> None:
    """Raise SettingsError when the run was begun with something that it cannot change."""
    from oprime.runtime.errors import SettingsError

    refused = [change for change in folder.changes(config) if not change.allowed] if folder.exists() else []
    if refused:
        raise SettingsError(
            f"run {config.run.name} was begun otherwise and cannot go on so: {', '.join(map(str, refused))}; put that back, or give the "
            "new run a name of its own (run.name). docs/operations.md lists what may change"
        )


def _fetch(config: "RunConfig") -> None:
    """Put models and data of the hub where the services find them without a network. Raises SettingsError for what is not there."""
    from oprime.adapters.store_weights import model_directory
    from oprime.tasks.row_files import HUB_PREFIX, local_file

    models = [] if config.sft is not None else [config.model.path]
    models += [config.prm.initial_model, config.prm.reference_model] if config.algorithm.needs_prm else []
    models += [config.critic.path] if config.algorithm.needs_critic else []
    for model in filter(None, models):
        _refuse_unreadable(model_directory(model))
    for setting, source in (("tasks.train", config.tasks.train), ("tasks.heldout", config.tasks.heldout)):
        if source.startswith(HUB_PREFIX):
            local_file(source, setting)


def _refuse_unreadable(directory: Path) -> None:
    from oprime.runtime.errors import SettingsError

    closed = (
        [path for path in (directory, *directory.iterdir()) if not os.access(path, os.R_OK)]
        if os.access(directory, os.R_OK)
        else [directory]
    )
    if closed:
        raise SettingsError(f"model {directory}: user {os.getuid()} may not read {closed[0].name}: chmod -R a+rX {directory}")


def _write(path: Path, text: str) -> None:
    """Leave a file alone that says the same: services begin anew when their settings change."""
    from oprime_cli.files import write_atomically

    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_atomically(path, text)
