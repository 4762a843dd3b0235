"""Payloads as files in one folder of a disk, on every machine of the run or shared by all of them.

`rollout/12:3/TIME-UNIQUE` is the file `rollout,12=3,TIME-UNIQUE`: one flat folder leaves no empty ones behind, and the signs are
those that every file system takes.
"""

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from oprime.ports.payloads import check_payload_names, is_payload_name, payload_name, payload_written_at
from oprime.runtime.errors import PayloadsUnavailableError

ResultT = TypeVar("ResultT")

ABANDONED_S = 3600.0
"""A file that is still being written after so many seconds has no writer any more."""

_TO_FILE = str.maketrans("/:", ",=")
_FROM_FILE = str.maketrans(",=", "/:")


def file_of(name: str) -> str:
    return name.translate(_TO_FILE)


def name_of(file: str) -> str:
    """The payload's name, or empty if the file is none."""
    name = file.translate(_FROM_FILE)
    return name if is_payload_name(name) else ""


class DirectoryPayloads:
    """The Payloads port on `folder`, which is made when it is first used; the directory that it is in must be there.

    A disk that is not mounted must not look like an empty store: a folder that is gone is PayloadsUnavailableError.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._is_made = False

    def put(self, owner: str, payload: bytes) -> str:
        return self.put_many([(owner, payload)])[0]

    def put_many(self, payloads: Sequence[tuple[str, bytes]]) -> list[str]:
        """As the port says. A payload whose name was returned outlasts a crash of the machine."""
        names = [payload_name(owner, time.time()) for owner, _ in payloads]
        with self._answering():
            try:
                for name, (_, payload) in zip(names, payloads, strict=True):
                    self._write(name, payload)
                _sync(self._folder)
            except BaseException:
                # Room is what is short then, and a caller that tries again gets other names.
                for name in names:
                    with suppress(OSError):
                        self._path(name).unlink(missing_ok=True)
                raise
        return names

    def get_many(self, names: Sequence[str]) -> list[bytes | None]:
        check_payload_names(names)
        with self._answering():
            return [self._if_there(self._path(name).read_bytes) for name in names]

    def delete(self, names: Sequence[str]) -> None:
        check_payload_names(names)
        with self._answering():
            for name in names:
                self._if_there(self._path(name).unlink)

    def names(self, prefix: str = "") -> Iterator[str]:
        """As the port says. Removes what writers that died had not finished."""
        with self._answering(), os.scandir(self._folder) as files:
            for file in files:
                name = name_of(file.name.removeprefix("."))
                if file.name.startswith("."):
                    self._remove_if_abandoned(name)
                elif name and name.startswith(prefix):
                    yield name

    def sizes(self, names: Sequence[str]) -> list[int | None]:
        check_payload_names(names)
        with self._answering():
            states = [self._if_there(self._path(name).stat) for name in names]
        return [None if state is None else state.st_size for state in states]

    def close(self) -> None:
        """Nothing to let go of."""

    def _path(self, name: str) -> Path:
        return self._folder / file_of(name)

    def _write(self, name: str, payload: bytes) -> None:
        """Under a hidden name first, so that nobody ever sees a part of it."""
        target = self._path(name)
        partial = target.with_name(f".{target.name}")
        try:
            with partial.open("xb") as file:
                file.write(payload)
                file.flush()
                os.fsync(file.fileno())
            partial.rename(target)
        except BaseException:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise

    def _if_there(self, act: Callable[[], ResultT]) -> ResultT | None:
        """The result of `act`, or None if its file is missing from a folder that is there."""
        try:
            return act()
        except FileNotFoundError:
            self._folder.stat()
            return None

    def _remove_if_abandoned(self, name: str) -> None:
        if name and payload_written_at(name) < time.time() - ABANDONED_S:
            with suppress(OSError):
                (self._folder / f".{file_of(name)}").unlink(missing_ok=True)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Turn what the disk says into an error of ours with the folder, the cause and the remedy."""
        try:
            if not self._is_made:
                self._folder.mkdir(exist_ok=True)
                self._is_made = True
            yield
        except OSError as error:
            raise PayloadsUnavailableError(f"payloads in {self._folder}: {self._explained(error)}; workers wait and try again") from error

    def _explained(self, error: OSError) -> str:
        if error.errno == errno.ENOENT:
            return f"the directory {self._folder.parent if not self._is_made else self._folder} is missing: create it, or mount its disk"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(self._folder).free
            return f"the disk is full ({free / 2**20:,.0f} MiB are free): free some space, or set payloads.store to another place"
        return f"{error.strerror or error}: payloads.store must be a directory that this user may write to"


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
