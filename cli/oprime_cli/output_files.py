"""Checks of the files that a command reads and writes, before it touches any of them."""

import os
from collections.abc import Iterable, Mapping
from itertools import combinations
from pathlib import Path

from oprime.runtime.errors import SettingsError, UnusableInputError
from oprime.runtime.whole_files import remove_file

STDIN = Path("-")
_STDIN_DEVICE = Path("/dev/stdin")


def check_outputs(reads: Mapping[str, Path | None], writes: Mapping[str, Path | None]) -> None:
    """`reads` and `writes`: what each file is called on the command line -> its path; None where it was not given.

    Raises SettingsError where an output is a folder, or the same file as an input or another output, also by a link.
    """
    inputs = [(name, _STDIN_DEVICE if path == STDIN else path) for name, path in reads.items() if path is not None]
    outputs = [(name, path) for name, path in writes.items() if path is not None]
    for name, path in outputs:
        if path.is_dir():
            raise SettingsError(f"{name} {path} is a folder: name a file, for example {path / 'out'}")
    _check_distinct([*((output, one) for output in outputs for one in inputs), *combinations(outputs, 2)])


def _check_distinct(pairs: Iterable[tuple[tuple[str, Path], tuple[str, Path]]]) -> None:
    for (name, path), (other_name, other) in pairs:
        if _is_same_file(path, other):
            raise SettingsError(f"{name} and {other_name} are the same file, {path}, whose content would be lost: name another {name}")


def _is_same_file(one: Path, other: Path) -> bool:
    """Pipes and devices, which may be named twice, are no files."""
    if one.exists() and other.exists():
        return one.is_file() and one.samefile(other)
    return os.path.realpath(one) == os.path.realpath(other)


def begin_anew(out: Path | None) -> None:
    """Remove what an earlier run left in `out`. Raises UnusableInputError where that cannot be done."""
    if out is None:
        return
    try:
        remove_file(out)
    except OSError as error:
        raise UnusableInputError(f"--out {out} cannot be written: {error.strerror or error}") from error
