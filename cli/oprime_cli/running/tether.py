"""Runs a command that gets SIGTERM when the process that started it dies: `python -I -S tether.py PARENT COMMAND ...`.

The kernel does this (PR_SET_PDEATHSIG) for whoever asked for it, which is why the command is entered through here.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)
    os.execvp(command[0], command)  # noqa: S606 - the command is the supervisor's own


if __name__ == "__main__":
    main()
