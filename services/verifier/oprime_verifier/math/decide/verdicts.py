"""Three-valued equality: proven equal, proven different, or not known."""

from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import TypeVar

T = TypeVar("T")


class Same(Enum):
    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


def every(parts: Iterable[Same]) -> Same:
    """All equal; the first difference decides."""
    found = Same.YES
    for part in parts:
        if part is Same.NO:
            return Same.NO
        if part is Same.UNKNOWN:
            found = Same.UNKNOWN
    return found


def either(parts: Iterable[Same]) -> Same:
    """One equal is enough; the first one decides."""
    found = Same.NO
    for part in parts:
        if part is Same.YES:
            return Same.YES
        if part is Same.UNKNOWN:
            found = Same.UNKNOWN
    return found


def is_true(value: bool) -> Same:
    return Same.YES if value else Same.NO


def matched(golds: Sequence[T], answers: Sequence[T], same: Callable[[T, T], Same]) -> Same:
    """Whether each gold has an answer of its own, in any order. Equality is transitive, so the first partner will do."""
    if len(golds) != len(answers):
        return Same.NO
    left, found = list(answers), Same.YES
    for gold in golds:
        verdicts = [same(gold, answer) for answer in left]
        if Same.YES in verdicts:
            del left[verdicts.index(Same.YES)]
        elif Same.UNKNOWN in verdicts:
            found = Same.UNKNOWN
        else:
            return Same.NO
    return found
