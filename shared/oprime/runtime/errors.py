"""Errors by name. `grpc_server.py` maps them to gRPC codes, the CLI to exit codes."""

import shutil
from pathlib import Path
from typing import Self


class OprimeError(Exception):
    """A failure with a message for a person: what, which value, the rule, the remedy."""


class UnusableInputError(OprimeError):
    """The input can never be handled; retrying is useless."""


class SettingsError(OprimeError):
    """A setting is unknown, out of range or contradicts another."""


class NotReadyError(OprimeError):
    """The service cannot answer yet; retry."""


class QueueUnavailableError(OprimeError):
    """The queue does not answer; workers wait and reconnect."""


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
