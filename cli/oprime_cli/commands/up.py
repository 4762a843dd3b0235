"""`oprime up CONFIG`: all services in the background, without training."""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from oprime_cli.arguments import Subparsers, add_config, add_start_timeout, as_typed, command_parser
from oprime_cli.console import say

if TYPE_CHECKING:
    from oprime_cli.running.run_folder import RunFolder

POLL_S = 0.1
SERVED = ("endpoints.", "gateway.")
"""Settings that an existing run takes from the command line."""


def add_parser(subparsers: Subparsers) -> None:
    parser = command_parser(
        subparsers,
        "up",
        description="Start all services in the background without training, and return when they are healthy. A run that exists is served "
        "as it is, with its own settings but for endpoints.* and gateway.*, and its newest weights; CONFIG may then be its folder.",
        example="oprime up deploy/config/demo.toml && oprime status && oprime down",
    )
    add_config(parser)
    parser.add_argument("--fresh", action="store_true", help="delete an existing run of this name and begin anew")
    add_start_timeout(parser)


def run(arguments: argparse.Namespace) -> int:
    from oprime_cli.planning.plan import make_plan
    from oprime_cli.running.run_folder import refuse_if_running

    folder, exists = _folder(arguments)
    if exists:
        refuse_if_running(folder)
        _change_addresses(folder, arguments.overrides)
        config = folder.load_settings()
        make_plan(config, new_run=False).check()
        for change in folder.changes(config):
            say(f"serving with {change}")
    _start(folder, arguments.start_timeout)
    return 0


def _change_addresses(folder: "RunFolder", overrides: Sequence[str]) -> None:
    """Write into an existing run's settings where it is served, and how. Raises UsageError for other settings."""
    from oprime_cli.running.failures import UsageError

    others = [text for text in overrides if not text.strip().startswith(SERVED)]
    if others:
        raise UsageError(
            f"{folder.path} exists and keeps its settings but for {' and '.join(f'{name}*' for name in SERVED)}: leave out "
            f"--set {others[0]}, choose another run.name, or begin anew with --fresh"
        )
    if overrides:
        folder.change(overrides)


def _folder(arguments: argparse.Namespace) -> tuple["RunFolder", bool]:
    """The run's folder and whether it was there before."""
    from oprime_cli.overrides import load_config
    from oprime_cli.paths import absolute_paths
    from oprime_cli.planning.plan import make_plan
    from oprime_cli.running.failures import PlanRefusedError
    from oprime_cli.running.run_folder import RunFolder, find_run, prepare_folder

    given = Path(arguments.config)
    if given.is_dir():
        return find_run(arguments.config), True
    config = absolute_paths(load_config(given, arguments.overrides))
    existing = RunFolder(config.run.folder)
    if existing.exists() and not arguments.fresh:
        say(f"serving the existing run {existing.path} with its own settings")
        return existing, True
    plan = make_plan(config, new_run=not arguments.fresh)
    plan.check()
    if plan.needs_sft:
        first = f"oprime {as_typed('sft', arguments)}"
        raise PlanRefusedError([f"model.path = {config.model.path}: there is no model yet; make it first: {first}"])
    folder = prepare_folder(config, fresh=arguments.fresh, command=as_typed("up", arguments))
    folder.begin(config)
    return folder, False


def _start(folder: "RunFolder", timeout_s: float) -> None:
    """Start the background supervisor and wait until it says that all services are healthy, or until it ends."""
    folder.logs.mkdir(parents=True, exist_ok=True)
    log = folder.logs / "supervisor.log"
    words = [sys.executable, "-m", "oprime_cli.main", "supervise", str(folder.path), "--start-timeout", str(timeout_s)]
    with log.open("wb") as output:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        gateway = _wait_until_ready(folder, process, log)
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise
    say(f"all services are healthy; gateway {gateway}")
    say(f"see `oprime status {folder.path}`; stop them with `oprime down {folder.path}`")


def _wait_until_ready(folder: "RunFolder", process: "subprocess.Popen[bytes]", log: Path) -> str:
    from oprime_cli.files import read_json
    from oprime_cli.running.failures import ServiceDiedError
    from oprime_cli.running.log_lines import tail

    shown = 0
    while True:
        ended = process.poll() is not None
        lines = tail(log)
        for line in lines[shown:-1] if not ended else ():
            say(line)
            shown += 1
        state = read_json(folder.state) or {}
        if state.get("pid") == process.pid and state.get("state") == "ready":
            return str(state.get("gateway"))
        if ended:
            said = lines[-1].removeprefix("oprime: ") if lines else "it said nothing"
            raise ServiceDiedError(f"the services did not come up: {said}")
        time.sleep(POLL_S)
