"""The teacher of the prose task, who holds a third of all phrasings wrongly, and problems by split and number.

Each phrasing is tied to one operation that it is confused with. A misconceived phrasing is mostly taken for that; the others are nearly
always understood. Now and then a number is misread or a sentence passed over. So a model that imitates the teacher begins with an
accuracy that is known in advance, and with mistakes that reinforcement learning can remove. Everything is a pure function of seeds and
equal on all platforms.
"""

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from typing import Literal

from oprime.runtime.errors import UnusableInputError
from oprime.tasks.prose import functions, word_problems
from oprime.tasks.prose.chance import below, chance, shuffled
from oprime.tasks.prose.problem import KINDS, Choice, Kind, Problem, Split, all_right
from oprime.tasks.prose.writing import first_wrong_block, written

MISCONCEIVED_SHARE = 1 / 3
"""Share of phrasings that a teacher holds wrongly, of each kind of problem."""
MISCONCEIVED = {Choice.RIGHT: 0.32, Choice.CONFUSER: 0.62, Choice.MISREAD: 0.03, Choice.SKIP: 0.03}
UNDERSTOOD = {Choice.RIGHT: 0.97, Choice.CONFUSER: 0.0, Choice.MISREAD: 0.015, Choice.SKIP: 0.015}
"""What a teacher chooses for a phrasing of either sort, and how often."""

HELDOUT_SHARE = 8
"""One problem in so many is held out."""

ErrorKind = Literal["none", "confuser", "natural"]

FUNCTION_PHRASINGS = tuple(
    f"code: {phrasing.name}"
    for phrasings in (*(signature.phrasings for signature in functions.SIGNATURES), functions.CHANGES)
    for phrasing in phrasings
)


def phrasing_names(*, wide: bool) -> dict[Kind, tuple[str, ...]]:
    """The phrasings of each kind of problem: those of the task, or with `wide` also the turned ones, which starting models are made on."""
    of_words = word_problems.PHRASINGS if wide else word_problems.PLAIN
    return {"math": tuple(f"math: {phrasing.name}" for phrasing in of_words), "code": FUNCTION_PHRASINGS}


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledSolution:
    """A response whose first wrong block is known."""

    problem: Problem
    response: str
    first_wrong: int | None
    """Index of the first wrong block (`writing.blocks`); None when all are right."""


def problem(split: Split, index: int, *, stream: str = "problems", wide: bool = False) -> Problem:
    """Problem `index` of a split: word problems and functions by turns, with turned phrasings if `wide`.

    No problem of one split is in the other, whatever the stream.
    """
    kind = KINDS[index % len(KINDS)]
    for attempt in count():
        drawn = _draw(kind, chance("problem", stream, split, index, attempt), wide=wide)
        if is_heldout(drawn) == (split == "heldout"):
            return drawn
    raise AssertionError("count() does not end")


def is_heldout(posed: Problem) -> bool:
    """Whether a problem belongs to the held-out split: decided by its own text alone."""
    return hashlib.blake2b(posed.prompt.encode(), digest_size=2).digest()[0] % HELDOUT_SHARE == 0


class Teacher:
    """Knows all phrasings with the misconceptions of `seed`."""

    def __init__(self, seed: int, *, wide: bool = False) -> None:
        self._wide = wide
        self.misconceived: frozenset[str] = frozenset(
            name
            for kind, names in phrasing_names(wide=wide).items()
            for name in shuffled(chance("belief", seed, kind), names)[: round(MISCONCEIVED_SHARE * len(names))]
        )

    def choices(self, posed: Problem, drawn: random.Random) -> tuple[Choice, ...]:
        """How the teacher decides each sentence this time."""
        found: list[Choice] = []
        for place, name in enumerate(posed.phrasings):
            choice = _sampled(MISCONCEIVED if name in self.misconceived else UNDERSTOOD, drawn)
            found.append(Choice.RIGHT if choice is Choice.SKIP and place == 0 else choice)
        return tuple(found)

    def respond(self, posed: Problem, drawn: random.Random) -> str:
        """A sampled response. After an error the solution goes on from its own, wrong value."""
        return written(posed.solution(self.choices(posed, drawn)))

    def demonstration(self, index: int) -> tuple[str, str]:
        """Prompt and sampled response of demonstration `index`, from problems that are never held out."""
        posed = problem("train", index, stream="demonstrations", wide=self._wide)
        return posed.prompt, self.respond(posed, chance("demonstration", index))


def labelled_solutions(kind: ErrorKind, number: int, teacher: Teacher) -> list[LabelledSolution]:
    """Solutions of held-out problems whose first wrong block is known, for judging step scores.

    `none`: right ones. `confuser`: one misconceived phrasing of a right solution is taken for what it is confused with, and each later step
    is right for the value it starts from. `natural`: the teacher's own solutions that have an error.
    """
    return list(islice(_labelled(kind, teacher), number))


def _labelled(kind: ErrorKind, teacher: Teacher) -> Iterator[LabelledSolution]:
    if kind == "confuser" and not teacher.misconceived:
        raise UnusableInputError("this teacher has no misconception, so there are no solutions with confuser errors")
    for index in count():
        posed = problem("heldout", index, stream=f"localisation {kind}")
        choices = _choices_with_error(kind, posed, teacher, chance("localisation", kind, index))
        if choices is None:
            continue
        response = written(posed.solution(choices))
        wrong = first_wrong_block(response, right_response(posed))
        if (wrong is None) == (kind == "none"):
            yield LabelledSolution(problem=posed, response=response, first_wrong=wrong)


def right_response(posed: Problem) -> str:
    return written(posed.solution(all_right(posed)))


def _choices_with_error(kind: ErrorKind, posed: Problem, teacher: Teacher, drawn: random.Random) -> tuple[Choice, ...] | None:
    """None when this problem gives no such solution."""
    if kind == "none":
        return all_right(posed)
    if kind == "natural":
        return teacher.choices(posed, drawn)
    places = [place for place, name in enumerate(posed.phrasings) if name in teacher.misconceived]
    if not places:
        return None
    wrong = places[below(drawn, len(places))]
    return tuple(Choice.CONFUSER if place == wrong else Choice.RIGHT for place in range(len(posed.phrasings)))


def _draw(kind: Kind, drawn: random.Random, *, wide: bool) -> Problem:
    if kind == "code":
        return functions.draw(drawn)
    return word_problems.draw(drawn, word_problems.PHRASINGS if wide else word_problems.PLAIN)


def _sampled(probabilities: dict[Choice, float], drawn: random.Random) -> Choice:
    left = drawn.random()
    for choice, probability in probabilities.items():
        left -= probability
        if left < 0:
            return choice
    return Choice.RIGHT
