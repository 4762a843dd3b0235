"""Results that were paid for: one JSON line each, written as soon as it is there, so that an interrupted command asks for nothing twice."""

import errno
import json
import os
import shutil
from io import FileIO
from pathlib import Path
from typing import Any

from oprime.runtime.errors import OprimeError, UnusableInputError


def unwritable(path: Path, error: OSError) -> OprimeError:
    """What to say when a file could not be written."""
    place = next((folder for folder in (path.parent, *path.parents) if folder.exists()), Path("/"))
    free = shutil.disk_usage(place).free / 2**20
    return OprimeError(
        f"{path} cannot be written: {error.strerror or error} ({free:,.0f} MiB are free). What is finished is kept: make room, then run "
        "the same command again"
    )


class RecordLog:
    """Values by key in a file. A later line for the same key replaces an earlier one; a last line that was cut is written over."""

    def __init__(self, path: Path) -> None:
        """Read what is there. Raises UnusableInputError for a file that is something else, OprimeError where it cannot be read."""
        self._path = path
        self._stream: FileIO | None = None
        self._whole = 0
        self._places: dict[str, tuple[int, int]] = {}
        """Start and length of each key's line: the values stay on disk."""
        self._read()

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __getitem__(self, key: str) -> Any:
        """Raises KeyError for a key that was never written, OprimeError where the file cannot be read."""
        start, length = self._places[key]
        try:
            with self._path.open("rb") as stream:
                stream.seek(start)
                return json.loads(stream.read(length))["value"]
        except (OSError, ValueError) as error:
            raise OprimeError(f"{self._path} cannot be read: {error}") from error

    def append(self, key: str, value: Any) -> None:
        """Raises OprimeError if the disk refuses; what was written before stays."""
        line = json.dumps({"key": key, "value": value}, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        try:
            self._stream = self._stream or self._opened()
            written = self._stream.write(line)
        except OSError as error:
            raise unwritable(self._path, error) from error
        if written != len(line):
            raise unwritable(self._path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        self._places[key] = (self._whole, len(line))
        self._whole += len(line)

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()

    def _opened(self) -> FileIO:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Unbuffered: a line that the disk refused does not come again when the file is closed.
        stream = self._path.open("ab", buffering=0)
        stream.truncate(self._whole)
        return stream

    def _read(self) -> None:
        if not self._path.exists():
            return
        try:
            with self._path.open("rb") as stream:
                for number, line in enumerate(stream, start=1):
                    if not line.endswith(b"\n"):
                        return
                    self._take(line, number)
        except OSError as error:
            raise OprimeError(f"{self._path} cannot be read: {error.strerror or error}") from error

    def _take(self, line: bytes, number: int) -> None:
        try:
            record = json.loads(line)
            key, _ = record["key"], record["value"]
        except (ValueError, KeyError, TypeError) as error:
            raise UnusableInputError(f"{self._path}, line {number} is no record of this command ({error}): move the file away") from error
        self._places[key] = (self._whole, len(line))
        self._whole += len(line)
