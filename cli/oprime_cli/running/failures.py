"""Failures of the command line by name; `main.py` turns them into one line and an exit code."""

from collections.abc import Sequence

from oprime.runtime.errors import OprimeError, SettingsError


class UsageError(SettingsError):
    """The command was called in a way that cannot work; exit code 2."""


class PlanRefusedError(SettingsError):
    """The plan of a run has problems; one line each."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        lines = "\n".join(f"  - {problem}" for problem in self.problems)
        super().__init__(f"{count} found before anything was started:\n{lines}")


class BusyError(OprimeError):
    """Another process is at what this one would do: the same run, or the same output."""


class ServiceDiedError(OprimeError):
    """A service ended although nobody asked it to."""


class ServiceRefusedError(ServiceDiedError, SettingsError):
    """A service ended because it refused its settings; exit code 2, as its own."""


class ServiceNotHealthyError(OprimeError):
    """A service did not become healthy in time."""


class RunStoppedError(OprimeError):
    """What a command needs is not running."""
