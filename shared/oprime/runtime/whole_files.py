"""Files that never look whole while they are half written.

A path may also name no file: a pipe, a terminal, /dev/null, /dev/stdout. That is written to as it is, and never removed or replaced, which
root could do to a device that the whole machine needs.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

_MOST_LINKS = 40


def is_stream(path: Path) -> bool:
    """Whether what is written there flows away: a pipe, a device, or what this process has open already (/dev/stdout, /dev/fd/3)."""
    if path.exists() and not path.is_file() and not path.is_dir():
        return True
    place = path.absolute()
    for _ in range(_MOST_LINKS):
        if place.parts[:2] == ("/", "proc"):
            return True
        if not place.is_symlink():
            break
        place = place.parent / place.readlink()
    return False


@contextmanager
def whole_file(path: Path, *, mode: int = 0o644) -> Iterator[BinaryIO]:
    """A file that appears whole, flushed to the disk, when the block ends, or not at all when it raises. Raises OSError.

    A reader sees the old file or the new one. A link stays a link: what it leads to is replaced.
    """
    if is_stream(path):
        with path.open("wb") as stream:
            yield stream
        return
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            os.fchmod(handle, mode)
            yield cast(BinaryIO, stream)
            stream.flush()
            os.fsync(handle)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def remove_file(path: Path) -> None:
    """Remove a file that is to be written anew; what is none is left alone. Raises OSError."""
    if not is_stream(path):
        path.unlink(missing_ok=True)
