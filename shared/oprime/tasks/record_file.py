"""A sequence of records on disk: more of them than memory holds, read back one at a time."""

import os
import tempfile
import weakref
import zlib
from array import array


class RecordFile:
    """Append-only records in a temporary file without a name; it is gone when the process ends. 8 bytes of memory a record."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="oprime-records-")  # noqa: SIM115  (open as long as the object lives)
        self._close = weakref.finalize(self, self._file.close)
        self._ends = array("q")
        self._flushed = True

    def append(self, record: bytes) -> None:
        packed = zlib.compress(record, level=1)
        self._file.write(packed)
        self._ends.append((self._ends[-1] if self._ends else 0) + len(packed))
        self._flushed = False

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, place: int) -> bytes:
        """The record at a place from 0. Raises IndexError outside."""
        if not 0 <= place < len(self._ends):
            raise IndexError(f"record {place} of {len(self._ends)}")
        if not self._flushed:
            self._file.flush()
            self._flushed = True
        start = self._ends[place - 1] if place else 0
        return zlib.decompress(os.pread(self._file.fileno(), self._ends[place] - start, start))

    def close(self) -> None:
        self._close()
