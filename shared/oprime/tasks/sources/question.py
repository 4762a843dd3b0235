"""What a row of a published data set holds, whatever its form: a question and how answers to it are verified."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from oprime.tasks.rows import BadRowError, RawRow, is_text, row_object, shown

Ability = Literal["math", "code"]
Kind = Literal["open", "choice", "proof"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question before it is laid out as a prompt."""

    text: str
    ground_truth: str
    """The answer, or the tests of a code task as JSON; empty where the row has none."""
    ability: Ability
    data_source: str
    kind: Kind = "open"
    """`choice` and `proof` where the row says so itself; rules find the others."""
    verifier_options: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A published form of rows."""

    name: str
    about: str
    """Which data sets have it, for a person."""
    marks: tuple[frozenset[str], ...]
    """Fields by which it is recognised: a row that has all of one of these."""
    read_row: Callable[[RawRow, dict[str, Any]], Question]

    def recognises(self, row: Mapping[str, Any]) -> bool:
        return any(mark <= row.keys() for mark in self.marks)

    def read(self, row: RawRow) -> Question:
        """Raises BadRowError with file, row, field, rule and remedy."""
        return self.read_row(row, row_object(row))


def marks(*groups: str) -> tuple[frozenset[str], ...]:
    """Each group is names of fields, separated by spaces."""
    return tuple(frozenset(group.split()) for group in groups)


def first_text(row: RawRow, *fields: str) -> str:
    """The first of the fields that holds a text. Raises BadRowError where none does."""
    value = row_object(row)
    for name in fields:
        if is_text(value.get(name)):
            return value[name]
    rule = f"must be a text that is not empty, not {shown(value.get(fields[0]))}; fields of this row are {', '.join(map(str, value))}"
    raise BadRowError(row, " or ".join(fields), f"missing {fields[0]}", rule)


def text_or_nothing(value: Any) -> str:
    """A text or a number as text; else empty."""
    if isinstance(value, bool) or value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip() if isinstance(value, str | int | float) else ""


_BOX = re.compile(r"\\f?box(?:ed)?\s*\{")


def last_boxed(text: str) -> str:
    """What stands in the last \\boxed{...} whose braces are balanced; empty where there is none."""
    for start in reversed([found.end() for found in _BOX.finditer(text)]):
        depth = 1
        for place in range(start, len(text)):
            escaped = place > 0 and text[place - 1] == "\\"
            depth += 0 if escaped else (text[place] == "{") - (text[place] == "}")
            if depth == 0:
                return text[start:place].strip()
    return ""
