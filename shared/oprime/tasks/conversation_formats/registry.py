"""The formats of conversations that oprime reads. A new format is a reader in a module here and its place in FORMATS."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from oprime.runtime.errors import SettingsError
from oprime.tasks.conversation_formats import pairs, turns
from oprime.tasks.conversations import ConversationReader
from oprime.tasks.readers import reader_named
from oprime.tasks.row_files import read_rows
from oprime.tasks.rows import RawRow


class ConversationFormat(ConversationReader, Protocol):
    """A reader that knows the rows of its format."""

    def recognises(self, row: Mapping[str, Any]) -> bool:
        """Whether a file whose first row this is has rows of this format, by the names of the fields."""
        ...


FORMATS: tuple[ConversationFormat, ...] = (turns.MESSAGES, turns.SHAREGPT, pairs.COMPLETION, pairs.RESPONSE, pairs.INSTRUCTION)
"""The first that recognises a file reads it."""


def open_conversations(location: str, setting: str, reader: str, reader_setting: str) -> tuple[ConversationReader, Iterator[RawRow]]:
    """The reader of a file and its rows. `setting` names the file in errors; `reader` is the value of `reader_setting`: a format's name,
    "module:NAME", or empty. Raises SettingsError, also where no format recognises the file's first row."""
    chosen = reader_named(reader, FORMATS, reader_setting) if reader else _recognised(location, setting, reader_setting)
    return chosen, read_rows(location, setting, tuple(chosen.fields) or None)


def _recognised(location: str, setting: str, reader_setting: str) -> ConversationReader:
    # A line that is no JSON says nothing about the others; it is refused when its turn comes.
    row = next((row.value for row in read_rows(location, setting) if isinstance(row.value, dict)), None)
    if row is None:
        return FORMATS[0]
    for known in FORMATS:
        if known.recognises(row):
            return known
    wanted = ", ".join(" and ".join(known.fields[:1] if isinstance(known, turns.TurnsReader) else known.fields[:2]) for known in FORMATS)
    raise SettingsError(
        f"{setting} = {location}: its first row has no conversation; its fields are {', '.join(row) or 'none'}. Rows with one have "
        f"{wanted}: rename the fields, or name a reader of your own in {reader_setting} (docs/sft.md)"
    )
