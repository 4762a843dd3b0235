"""`oprime down [RUN]`: stops a run's services."""

import argparse
import time
from typing import TYPE_CHECKING

from oprime_cli.arguments import Subparsers, add_run, command_parser
from oprime_cli.console import say

if TYPE_CHECKING:
    from oprime_cli.running.run_folder import RunFolder

TIMEOUT_S = 90.0
POLL_S = 0.1


def add_parser(subparsers: Subparsers) -> None:
    parser = command_parser(
        subparsers,
        "down",
        description="Stop a run's services in order, whether they train or only serve, and wait until they are gone.",
        example="oprime down runs/demo",
    )
    add_run(parser, optional=True)


def run(arguments: argparse.Namespace) -> int:
    from oprime_cli.running.run_folder import find_running

    folder = find_running(arguments.run, otherwise_newest=False)
    pid = folder.supervisor_pid()
    if pid is None:
        say(f"run {folder.path.name} is not running")
        return 0
    _stop(folder, pid)
    say(f"run {folder.path.name} is stopped")
    return 0


def _stop(folder: "RunFolder", pid: int) -> None:
    import signal

    from oprime_cli.running.processes import send

    send(pid, signal.SIGTERM)
    deadline = time.monotonic() + TIMEOUT_S
    while folder.supervisor_pid() == pid:
        if time.monotonic() > deadline:
            say(f"the supervisor did not end within {TIMEOUT_S:g} s and is killed")
            # Its guard ends the services then.
            send(pid, signal.SIGKILL)
        time.sleep(POLL_S)
