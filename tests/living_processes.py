"""Processes as tests look at them: any of them may end at any moment, and those that ended count as gone."""

import psutil


def lives(process: psutil.Process) -> bool:
    """Whether it runs: one that nobody has waited for yet does not."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def children(command: str = "", *, of: int | None = None) -> set[psutil.Process]:
    """Living descendants of this process, or of the process `of`, in whose command line `command` stands."""
    return {child for child in psutil.Process(of).children(recursive=True) if command in _command_line(child) and lives(child)}


def _command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return ""
