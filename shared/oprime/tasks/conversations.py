"""Conversations to learn from, whatever their format: `oprime.tasks.conversation_formats` has a reader for each."""

from collections.abc import Sequence
from typing import Protocol

from oprime.core.types import ChatMessage
from oprime.tasks.rows import ROLES, BadRowError, RawRow, is_text, row_object, shown

Conversation = tuple[ChatMessage, ...]


class ConversationReader(Protocol):
    """Reads the rows of one format."""

    @property
    def name(self) -> str:
        """The value of the setting that chooses it."""
        ...

    @property
    def fields(self) -> Sequence[str]:
        """Fields that are read of a row. Empty reads all."""
        ...

    def read(self, row: RawRow) -> Conversation:
        """The conversation of a row, whose last turn is the assistant's. An exception makes it a bad row; a BadRowError says best what is
        wrong with it."""
        ...


def read_conversation(row: RawRow, reader: ConversationReader) -> Conversation:
    """A conversation that can be learnt from. Raises BadRowError with file, row, field, rule and remedy."""
    row_object(row)
    try:
        found = tuple(reader.read(row))
    except BadRowError:
        raise
    except Exception as error:
        rule = f"{type(error).__name__}: {error}; correct the row or the reader"
        raise BadRowError(row, "row", f"refused by the reader {reader.name}", rule) from error
    if len(found) < 2:
        raise BadRowError(
            row, reader.fields[0] if reader.fields else "row", "missing prompt", "the answer needs a turn before it; remove the row"
        )
    turns = [(turn.role, turn.content) for turn in found]
    if turns[-1][0] != "assistant" or any(role not in ROLES or not is_text(content) for role, content in turns):
        rule = f"turns are of {', '.join(ROLES)}, none is empty, the last is the assistant's, not {shown(turns)}; correct row or reader"
        raise BadRowError(row, "row", "no usable conversation", rule)
    return found
