"""The row formats that oprime reads, and the reader that a run's settings choose. A new format is a module here and its line in FORMATS."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from oprime.tasks.formats import eurus, question_answer
from oprime.tasks.readers import reader_named, recognised
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
    chosen: RowReader = (
        reader_named(reader, FORMATS, "tasks.reader") if reader else recognised(next(read_rows(location, setting), None), FORMATS)
    )
    return chosen, read_rows(location, setting, tuple(chosen.fields) or None)
