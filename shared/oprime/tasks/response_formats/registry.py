"""The formats of response-level data that oprime reads. A new format is a reader in a module here and its place in FORMATS."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from oprime.tasks.readers import reader_named, recognised
from oprime.tasks.response_formats import conversation, several
from oprime.tasks.responses import ResponseReader
from oprime.tasks.row_files import read_rows
from oprime.tasks.rows import RawRow


class ResponseFormat(ResponseReader, Protocol):
    """A reader that knows the rows of its format."""

    def recognises(self, row: Mapping[str, Any]) -> bool:
        """Whether a file whose first row this is has rows of this format, by the names of the fields."""
        ...


FORMATS: tuple[ResponseFormat, ...] = (several.LABELLED, several.ULTRAINTERACT, conversation.EURUSPRM, conversation.POINTWISE)
"""The first that recognises a file reads it; the first of all reads a file that none recognises."""


def open_responses(location: str, setting: str, reader: str, reader_setting: str) -> tuple[ResponseReader, Iterator[RawRow]]:
    """The reader of a file and its rows. `setting` names the file in errors; `reader` is the value of `reader_setting`: a format's name,
    "module:NAME", or empty. Raises SettingsError."""
    chosen: ResponseReader = (
        reader_named(reader, FORMATS, reader_setting) if reader else recognised(next(read_rows(location, setting), None), FORMATS)
    )
    return chosen, read_rows(location, setting, tuple(chosen.fields) or None)
