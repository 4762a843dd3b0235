"""Errors by name, and the exit code of each. `grpc_server.py` maps them to gRPC codes."""

import shutil
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Self


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` (did you mean X?)`, or nothing where no known word is like it."""
    near = get_close_matches(word, known, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


class OprimeError(Exception):
    """A failure with a message for a person: what, which value, the rule, the remedy."""


class UnusableInputError(OprimeError):
    """The input can never be handled; retrying is useless."""


class TooManyError(UnusableInputError):
    """More than one request may hold; fewer at a time can be handled."""


class SettingsError(OprimeError):
    """A setting is unknown, out of range or contradicts another."""


class NotNeededError(SettingsError):
    """The settings leave this service nothing to do."""


class RunEndedError(OprimeError):
    """The run cannot go on as it is: a restart would repeat the same work and end the same way. The process must not be restarted."""


class NotReadyError(OprimeError):
    """The service cannot answer yet; retry."""


class TooBusyError(OprimeError):
    """Too much waits already; retry later."""


class QueueUnavailableError(OprimeError):
    """The queue does not answer; workers wait and reconnect."""


class PayloadsUnavailableError(QueueUnavailableError):
    """The store of payloads does not answer, or has no room; workers wait and try again."""


class FencedError(OprimeError):
    """Another process took over this one's work: it must stop, and nothing that it still tries happens."""


class WeightsRefusedError(OprimeError):
    """A weight version is missing, incomplete or damaged."""


class WeightVersionMissingError(WeightsRefusedError):
    """No such weight version in the store."""


class CheckpointError(OprimeError):
    """A checkpoint cannot be written, is missing, or is damaged."""

    @classmethod
    def unwritable(cls, path: Path, error: OSError) -> Self:
        """What to say when `error` struck while writing `path`: with the space that is left there."""
        place = next((folder for folder in (path, *path.parents) if folder.exists()), Path("/"))
        free = shutil.disk_usage(place).free
        return cls(
            f"{path} cannot be written: {error.strerror or error}; {free / 2**20:,.0f} MiB are free in {place}. "
            "Free some space or lower run.keep_checkpoints; the newest complete checkpoint is untouched"
        )


FAILED, REFUSED, RUN_ENDED, NOT_NEEDED = 1, 2, 3, 4
"""Exit codes. After RUN_ENDED and NOT_NEEDED a restart is useless."""


def exit_code(error: BaseException) -> int:
    """How a process ends that `error` has ended."""
    if isinstance(error, RunEndedError):
        return RUN_ENDED
    if isinstance(error, NotNeededError):
        return NOT_NEEDED
    return REFUSED if isinstance(error, SettingsError) else FAILED
