"""Outputs of one JSON row for each row of the input, in its order, that a later run of the same command goes on with.

Where an early row must be answered anew, the output is cut before it and written on from there. What stood in it waits meanwhile in
OUT.earlier, so that no end of the process, not even `kill -9`, loses an answer that was there: places that were not reached keep theirs.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from oprime.runtime.errors import UnusableInputError
from oprime.runtime.whole_files import is_stream
from oprime_cli.files import write_atomically

OutRow = dict[str, Any]
"""A row of an output."""


def rows_in(out: Path | None) -> list[OutRow]:
    """The rows of earlier runs, whole lines alone; none where `out` is no file that stays.

    Raises UnusableInputError where it cannot be read, or holds something else.
    """
    if out is None or is_stream(out) or not out.exists():
        return []
    rows, saved = _whole_rows(out), earlier_of(out)
    return rows + (_whole_rows(saved)[len(rows) :] if saved.exists() else [])


def earlier_of(out: Path) -> Path:
    """Where the rows of earlier runs wait while a run writes `out`."""
    return out.with_name(f"{out.name}.earlier")


def not_ours(out: Path, line: int, error: Exception) -> UnusableInputError:
    """What to say of an output that another program wrote."""
    return UnusableInputError(f"{out}, line {line}: this is no output of this command ({error}); name another --out or add --fresh")


@contextmanager
def continued(out: Path, before: Sequence[OutRow], kept: int) -> Iterator[Callable[[OutRow], None]]:
    """Writes rows to `out` behind the first `kept` of `before`, which are `rows_in` it.

    Raises UnusableInputError where it cannot be opened, OprimeError where the disk refuses.
    """
    saved = None if is_stream(out) else earlier_of(out)
    if saved is not None:
        _cut(out, saved, before, kept)
    written = kept
    with _opened(out) as stream:

        def write(row: OutRow) -> None:
            nonlocal written
            stream.write(line_of(row))
            stream.flush()
            written += 1

        try:
            yield write
        finally:
            stream.writelines(map(line_of, before[written:]))
            stream.flush()
            if saved is not None:
                saved.unlink(missing_ok=True)


def _cut(out: Path, saved: Path, before: Sequence[OutRow], kept: int) -> None:
    """At every moment, `rows_in(out)` are `before`."""
    if before[kept:]:
        write_atomically(saved, "".join(map(line_of, before)))
    if out.exists():
        # Also without a last line that was cut in the middle.
        write_atomically(out, "".join(map(line_of, before[:kept])))
    if not before[kept:]:
        saved.unlink(missing_ok=True)


def line_of(row: OutRow) -> str:
    # Half a character in an id is written as JSON's own escape.
    return json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace").decode() + "\n"


def _whole_rows(path: Path) -> list[OutRow]:
    return list(_parsed(path, _whole_lines(path)))


def _whole_lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as stream:
            for line in stream:
                if not line.endswith(b"\n"):
                    return
                yield line
    except OSError as error:
        raise UnusableInputError(f"{path} cannot be read: {error.strerror or error}") from error


def _parsed(path: Path, lines: Iterable[bytes]) -> Iterator[OutRow]:
    for number, line in enumerate(lines, start=1):
        try:
            yield dict(json.loads(line))
        except (ValueError, TypeError) as error:
            raise not_ours(path, number, error) from error


def _opened(out: Path) -> IO[str]:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        return out.open("a", encoding="utf-8")
    except OSError as error:
        raise UnusableInputError(f"--out {out} cannot be written: {error.strerror or error}") from error
