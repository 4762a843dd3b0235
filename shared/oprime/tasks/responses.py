"""Response-level data: prompts with responses that are known to be right or wrong, whatever their format.

`oprime.tasks.response_formats` has a reader for each.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from oprime.core.types import ChatMessage
from oprime.tasks.rows import BadRowError, RawRow, is_text, messages_of, row_object, shown, text_of


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledResponses:
    """A prompt and some of its responses."""

    messages: tuple[ChatMessage, ...]
    """The last turn is the user's."""
    responses: tuple[str, ...]
    outcome_rewards: tuple[float, ...]
    """From 0 to 1, one per response."""
    answers: tuple[str, ...] = ()
    """What each response answers, where the row says it; else empty."""


class ResponseReader(Protocol):
    """Reads the rows of one format."""

    @property
    def name(self) -> str:
        """The value of the setting that chooses it."""
        ...

    @property
    def fields(self) -> Sequence[str]:
        """Fields that are read of a row. Empty reads all."""
        ...

    def read(self, row: RawRow) -> LabelledResponses:
        """What a row holds. An exception makes it a bad row; a BadRowError says best what is wrong with it."""
        ...


def read_responses(row: RawRow, reader: ResponseReader) -> LabelledResponses:
    """Raises BadRowError with file, row, field, rule and remedy."""
    row_object(row)
    try:
        found = reader.read(row)
    except BadRowError:
        raise
    except Exception as error:
        rule = f"{type(error).__name__}: {error}; correct the row or the reader"
        raise BadRowError(row, "row", f"refused by the reader {reader.name}", rule) from error
    counts = (len(found.responses), len(found.outcome_rewards), len(found.answers) or len(found.responses))
    if not found.responses or len(set(counts)) > 1:
        rule = f"needs at least one response and a label for each, not {counts[0]} and {counts[1]}; correct the row"
        raise BadRowError(row, "responses", "responses without labels", rule)
    return found


def prompt_messages(row: RawRow, value: Mapping[str, Any], field: str) -> tuple[ChatMessage, ...]:
    """A prompt that is a text, or a conversation that ends with the user. Raises BadRowError."""
    if isinstance(value.get(field), list):
        return messages_of(row, field, value[field], last_role="user")
    return (ChatMessage(role="user", content=text_of(row, value, field)),)


def response_texts(row: RawRow, value: Mapping[str, Any], field: str, *, even_empty: bool = False) -> tuple[str, ...]:
    """A list of texts, which may be `even_empty`. Raises BadRowError."""
    texts = value.get(field)
    if not isinstance(texts, list) or not texts or not all(is_text(text) or (even_empty and text == "") for text in texts):
        rule = f"must be a list of texts{'' if even_empty else ' that are not empty'}, not {shown(texts)}; correct the row"
        raise BadRowError(row, field, f"wrong {field}", rule)
    return tuple(texts)


def outcome_reward(row: RawRow, field: str, label: Any) -> float:
    """A label as an outcome reward: true or false, or a number from 0 to 1. Raises BadRowError."""
    if isinstance(label, bool | int | float) and 0 <= label <= 1:
        return float(label)
    rule = f"must be true, false or a number from 0 (wrong) to 1 (right), not {shown(label)}; correct the row"
    raise BadRowError(row, field, "wrong label", rule)


def outcome_rewards(row: RawRow, value: Mapping[str, Any], field: str) -> tuple[float, ...]:
    """A list of labels. Raises BadRowError."""
    labels = value.get(field)
    if not isinstance(labels, list):
        raise BadRowError(row, field, "wrong label", f"must be a list with a label per response, not {shown(labels)}; correct the row")
    return tuple(outcome_reward(row, f"{field}[{place}]", label) for place, label in enumerate(labels))
