"""A file that one process holds at a time, and that is free again however the process ends."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from oprime.runtime.errors import OprimeError
from oprime.runtime.whole_files import is_stream
from oprime_cli.files import read_json
from oprime_cli.running.failures import BusyError
from oprime_cli.running.processes import start_ticks


@contextlib.contextmanager
def sole_holder(path: Path, *, busy: str, remedy: str) -> Iterator[None]:
    """Hold a lock file, which names this process meanwhile. A dead holder's lock is taken over.

    While another process holds it, raises BusyError with `busy`, the process and `remedy`. Raises OprimeError where it cannot be made.
    """
    handle = _locked(path, busy, remedy)
    try:
        _write_owner(handle, {"pid": os.getpid(), "start_ticks": start_ticks(os.getpid())})
        try:
            yield
        finally:
            _write_owner(handle, {})
    finally:
        # Closing gives the lock back, as the end of the process would.
        os.close(handle)


@contextlib.contextmanager
def sole_writer(output: Path | None, command: str) -> Iterator[None]:
    """Hold a file of results, by a lock beside it that goes again. Raises BusyError while another process writes into it.

    Where results go to no file (None, a pipe, a device) there is nothing to hold.
    """
    if output is None or is_stream(output):
        yield
        return
    lock = output.with_name(f"{output.name}.lock")
    with sole_holder(lock, busy=f"another `{command}` is writing to {output}", remedy="wait for it, or choose another output"):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _locked(path: Path, busy: str, remedy: str) -> int:
    while True:
        handle = _opened(path)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(handle, path):
                return handle
        except BlockingIOError as error:
            os.close(handle)
            owner = (read_json(path) or {}).get("pid", "unknown")
            raise BusyError(f"{busy} (process {owner}): {remedy}") from error
        # Its holder removed it in the moment in between: whoever comes next would lock another file.
        os.close(handle)


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _opened(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise OprimeError(f"{path} cannot be written: {error.strerror or error}; choose a place that can") from error


def _write_owner(handle: int, owner: dict[str, Any]) -> None:
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps(owner).encode(), 0)
