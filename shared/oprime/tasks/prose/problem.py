"""What word problems and function problems have in common: decisions, each tied to a phrasing, and the solution that follows from them.

A problem is a text in which each sentence after the first asks for one decision: which operation does it mean? A solver decides each of
them in one of four ways (`Choice`). The right decisions give the right solution; every other list of decisions gives a solution that goes
wrong at a known step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Protocol

Kind = Literal["math", "code"]
Split = Literal["train", "heldout"]

KINDS: tuple[Kind, ...] = ("math", "code")


class Choice(StrEnum):
    """How a solver decides what one sentence asks for."""

    RIGHT = "right"
    CONFUSER = "confuser"
    """The operation that the phrasing is confused with."""
    MISREAD = "misread"
    """The right operation with a number one off."""
    SKIP = "skip"
    """Nothing: the sentence is passed over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """What a solver writes, without the form around it."""

    given: str
    """What the first sentence says."""
    steps: tuple[str, ...]
    """One per decision that was not skipped."""
    output: str
    """The answer in a box, or the program in a code block."""


class Problem(Protocol):
    """A problem of either kind."""

    @property
    def kind(self) -> Kind: ...

    @property
    def prompt(self) -> str: ...

    @property
    def phrasings(self) -> tuple[str, ...]:
        """Name of the phrasing behind each decision."""
        ...

    @property
    def ground_truth(self) -> str:
        """What the verifier `math` or `code` compares with: the answer, or a JSON list of assert statements."""
        ...

    def solution(self, choices: Sequence[Choice]) -> Solution:
        """The solution that follows from one choice per decision. The first sentence's decision cannot be skipped."""
        ...


def all_right(problem: Problem) -> tuple[Choice, ...]:
    return (Choice.RIGHT,) * len(problem.phrasings)


def misread(number: int) -> int:
    """The number that a careless reader takes `number`, 2 to 9, for."""
    return number + 1 if number < 9 else number - 1
