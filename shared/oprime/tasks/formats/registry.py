"""The row formats that oprime reads, and the reader that a run's settings choose. A new format is a module here and its line in FORMATS."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from oprime.runtime.errors import SettingsError
from oprime.runtime.plugins import load_attribute
from oprime.tasks.formats import eurus, question_answer
from oprime.tasks.row_files import read_rows
from oprime.tasks.rows import RawRow, RowReader


class RowFormat(RowReader, Protocol):
    """A reader that knows the rows of its format."""

    def recognises(self, row: Mapping[str, Any]) -> bool:
        """Whether a file whose first row this is has rows of this format, by the names of the fields."""
        ...


FORMATS: tuple[RowFormat, ...] = (eurus.READER, question_answer.READER)
"""The first that recognises a file reads it; the first of all reads a file that none recognises."""


def open_tasks(location: str, setting: str, reader: str) -> tuple[RowReader, Iterator[RawRow]]:
    """The reader of a file and its rows. `setting` names the file in errors; `reader` is tasks.reader. Raises SettingsError."""
    chosen = _named(reader) if reader else _recognised(next(read_rows(location, setting), None))
    return chosen, read_rows(location, setting, tuple(chosen.fields) or None)


def _recognised(first: RawRow | None) -> RowReader:
    value = first.value if first is not None and isinstance(first.value, dict) else {}
    return next((known for known in FORMATS if known.recognises(value)), FORMATS[0])


def _named(name: str) -> RowReader:
    known = {reader.name: reader for reader in FORMATS}
    if name in known:
        return known[name]
    if ":" not in name:
        raise SettingsError(
            f"tasks.reader = {name}: no such reader; oprime has {', '.join(known)}, and one of your own is "
            '"module:NAME" or "path/to/file.py:NAME" (docs/extending.md)'
        )
    try:
        found, _ = load_attribute(name)
    except (Exception, SystemExit) as error:
        problem = f"{type(error).__name__}: {error}"
        raise SettingsError(f"tasks.reader = {name} cannot be imported ({problem}): install it, or correct the name") from error
    if isinstance(found, type) or not _is_reader(found):
        raise SettingsError(
            f"tasks.reader = {name} is no reader: name an object with a name, a tuple of fields and read(row) (docs/extending.md)"
        )
    return found


def _is_reader(found: Any) -> bool:
    fields = getattr(found, "fields", None)
    return isinstance(getattr(found, "name", None), str) and isinstance(fields, tuple | list) and callable(getattr(found, "read", None))
