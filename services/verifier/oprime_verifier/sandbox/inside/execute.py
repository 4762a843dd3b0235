"""Become another program: a compiler, or what it built. The locks stay."""

import os
import signal
import socket
from typing import Any

from oprime_verifier.sandbox.inside.stage import RUNNING, close_marks, mark


def main(source: str, arguments: dict[str, Any], channel: socket.socket | None) -> None:
    """`arguments`: `argv`, whose first word is a path, and `environment`."""
    del source, channel
    # Python ignores them, and that would outlive the exec.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    mark(RUNNING)
    close_marks()
    os.execve(arguments["argv"][0], arguments["argv"], arguments["environment"])  # noqa: S606 - what it is for
