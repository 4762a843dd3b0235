"""The built-in task: chains of additions and subtractions modulo 10, and a noisy teacher with misconceptions.

A problem reads `3 +8 -5 ?`; its right response is `=1 =6 #6`: one word per reasoning step, then the answer. Only the answer
is verified, but the truth of every step is known, so process rewards can be judged.

The teacher holds a fixed share of the 200 facts (value, operation, operand) wrongly. A model fine-tuned on its
demonstrations starts with an accuracy that is known in advance and with errors that reinforcement learning can remove.
Everything is a pure function of seeds and equal on all platforms.
"""

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from typing import Literal

from oprime.runtime.errors import UnusableInputError

MODULUS = 10
SIGNS = ("+", "-")
QUESTION = "?"
STEP_MARK = "="
ANSWER_MARK = "#"
END = "<eos>"
"""The word that ends a response."""

MISCONCEIVED_SHARE = 0.2
"""Share of facts that the teacher holds wrongly."""
MISCONCEIVED_RIGHT = 0.3
MISCONCEIVED_CONFUSER = 0.6
"""Probabilities of the right result and of the one fixed wrong result of such a fact; the rest is spread evenly."""
KNOWN_RIGHT = 0.97
"""Probability of the right result of all other facts; the rest is spread evenly."""

HELDOUT_SHARE = 8
"""One problem in so many is held out."""

Split = Literal["train", "heldout"]
ErrorKind = Literal["none", "confuser", "natural"]
Fact = tuple[int, str, int]


@dataclass(frozen=True, slots=True)
class Problem:
    """A start value and the operations on it."""

    start: int
    operations: tuple[tuple[str, int], ...]

    @property
    def prompt(self) -> str:
        return " ".join([str(self.start), *(f"{sign}{operand}" for sign, operand in self.operations), QUESTION])

    @property
    def values(self) -> tuple[int, ...]:
        """The right value after each operation."""
        values = [self.start]
        for sign, operand in self.operations:
            values.append(right_result((values[-1], sign, operand)))
        return tuple(values[1:])

    @property
    def facts(self) -> tuple[Fact, ...]:
        """The facts that the right chain uses, one per step."""
        before = (self.start, *self.values[:-1])
        return tuple((value, sign, operand) for value, (sign, operand) in zip(before, self.operations, strict=True))

    @property
    def ground_truth(self) -> str:
        return str(self.values[-1])

    def answered_by(self, response: str) -> bool:
        """Whether a response ends with the right answer; its steps do not matter."""
        return response.split()[-1:] == [f"{ANSWER_MARK}{self.ground_truth}"]

    @property
    def right_response(self) -> str:
        return response_of(self.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledChain:
    """A response whose first wrong step is known."""

    prompt: str
    response: str
    first_wrong_step: int | None
    """Index of the first wrong word of the response; None when all are right."""


def right_result(fact: Fact) -> int:
    value, sign, operand = fact
    return (value + operand if sign == "+" else value - operand) % MODULUS


def response_of(values: tuple[int, ...]) -> str:
    """The response that passes through `values` and answers the last."""
    return " ".join([*(f"{STEP_MARK}{value}" for value in values), f"{ANSWER_MARK}{values[-1]}"])


def parse_problem(prompt: str) -> Problem:
    """Read a prompt such as `3 +8 -5 ?`. Raises UnusableInputError for anything else."""
    words = prompt.split()
    if len(words) < 3 or words[-1] != QUESTION or not _is_digit(words[0]) or not all(map(_is_operation, words[1:-1])):
        raise UnusableInputError(
            f"{prompt[:80]!r} is no chain problem: write a digit, operations such as +8 or -5, and ?, separated by spaces"
        )
    return Problem(int(words[0]), tuple((word[0], int(word[1])) for word in words[1:-1]))


def first_wrong_step(prompt: str, response: str) -> int | None:
    """Index of the first word of the response that differs from the right response; None when it is right throughout.

    A word that is missing counts at the place where it should be, a word too many at its own place; the end word may be
    there or not. Raises UnusableInputError if the prompt is no chain problem.
    """
    right = parse_problem(prompt).right_response.split()
    words = response.split()
    if words and words[-1] == END:
        words.pop()
    for place, (word, expected) in enumerate(zip(words, right, strict=False)):
        if word != expected:
            return place
    return None if len(words) == len(right) else min(len(words), len(right))


def problem(split: Split, index: int, operations: int, *, stream: str = "problems") -> Problem:
    """Problem `index` of a split. No problem of one split occurs in the other, whatever the index, length and stream."""
    for attempt in count():
        drawn = _draw(_chance("problem", stream, split, operations, index, attempt), operations)
        if is_heldout(drawn) == (split == "heldout"):
            return drawn
    raise AssertionError("count() does not end")


def is_heldout(drawn: Problem) -> bool:
    """Whether a problem belongs to the held-out split: decided by its own text alone."""
    return hashlib.blake2b(drawn.prompt.encode(), digest_size=2).digest()[0] % HELDOUT_SHARE == 0


class Teacher:
    """Knows the 200 facts with the misconceptions of `seed`."""

    def __init__(self, seed: int) -> None:
        facts = [(value, sign, operand) for value in range(MODULUS) for sign in SIGNS for operand in range(MODULUS)]
        by_chance = sorted(facts, key=lambda fact: _chance("belief", seed, *fact).random())
        self.confusers: dict[Fact, int] = {
            fact: (right_result(fact) + 1 + _below(_chance("confuser", seed, *fact), MODULUS - 1)) % MODULUS
            for fact in by_chance[: round(MISCONCEIVED_SHARE * len(facts))]
        }
        """The one wrong result that the teacher prefers, for each misconceived fact."""

    def probabilities(self, fact: Fact) -> tuple[float, ...]:
        """Probability of each result 0 to 9 of a fact."""
        right, confuser = right_result(fact), self.confusers.get(fact)
        chosen = {right: KNOWN_RIGHT} if confuser is None else {right: MISCONCEIVED_RIGHT, confuser: MISCONCEIVED_CONFUSER}
        rest = (1 - sum(chosen.values())) / (MODULUS - len(chosen))
        return tuple(chosen.get(value, rest) for value in range(MODULUS))

    def respond(self, posed: Problem, chance: random.Random) -> str:
        """A sampled response. After an error the chain goes on from its own, wrong value."""
        values: list[int] = []
        value = posed.start
        for sign, operand in posed.operations:
            value = _sampled(self.probabilities((value, sign, operand)), chance)
            values.append(value)
        return response_of(tuple(values))

    def demonstration(self, index: int, operations: int) -> tuple[str, str]:
        """Prompt and sampled response of demonstration `index`, from problems that are never held out."""
        posed = problem("train", index, operations, stream="demonstrations")
        return posed.prompt, self.respond(posed, _chance("demonstration", index, operations))

    def answered(self, split: Split, index: int, operations: int, number: int) -> tuple[Problem, tuple[str, ...]]:
        """Problem `index` of a split, and `number` sampled responses to it."""
        posed = problem(split, index, operations, stream="answered")
        return posed, tuple(self.respond(posed, _chance("answered", split, index, operations, place)) for place in range(number))


def labelled_chains(kind: ErrorKind, number: int, operations: int, teacher: Teacher) -> list[LabelledChain]:
    """Held-out chains with known first errors, for judging step scores.

    `none`: right chains. `confuser`: one misconceived fact of a right chain gives the teacher's preferred wrong result, and
    each later step is right for the value it starts from. `natural`: the teacher's own responses that have an error.
    """
    found = list(islice(_labelled(kind, operations, teacher), number))
    if len(found) < number:
        raise UnusableInputError(
            f"only {len(found)} of {number} chains with {kind} errors were found at tasks.chain.operations {operations}: use longer chains"
        )
    return found


def _labelled(kind: ErrorKind, operations: int, teacher: Teacher) -> Iterator[LabelledChain]:
    fruitless = 0
    for index in count():
        posed = problem("heldout", index, operations, stream=f"localisation {kind}")
        response = _response_with_error(kind, posed, teacher, _chance("localisation", kind, index, operations))
        fruitless += response is None
        if response is not None:
            yield LabelledChain(prompt=posed.prompt, response=response, first_wrong_step=first_wrong_step(posed.prompt, response))
            fruitless = 0
        if fruitless >= 1000:
            return


def _response_with_error(kind: ErrorKind, posed: Problem, teacher: Teacher, chance: random.Random) -> str | None:
    """None when this problem gives no such response."""
    if kind == "none":
        return posed.right_response
    if kind == "natural":
        response = teacher.respond(posed, chance)
        return response if response != posed.right_response else None
    places = [place for place, fact in enumerate(posed.facts) if fact in teacher.confusers]
    if not places:
        return None
    place = places[_below(chance, len(places))]
    wrong = teacher.confusers[posed.facts[place]]
    after = Problem(wrong, posed.operations[place + 1 :]).values
    return response_of((*posed.values[:place], wrong, *after))


def _chance(*name: object) -> random.Random:
    # Seeding with text hashes it with SHA-512: the same on every platform and unlike that of any other name.
    return random.Random(" ".join(["oprime chain", *map(str, name)]))  # noqa: S311


def _below(chance: random.Random, bound: int) -> int:
    # random() is the one method whose sequence Python promises never to change.
    return int(chance.random() * bound)


def _draw(chance: random.Random, operations: int) -> Problem:
    start = _below(chance, MODULUS)
    return Problem(start, tuple((SIGNS[_below(chance, len(SIGNS))], _below(chance, MODULUS)) for _ in range(operations)))


def _sampled(probabilities: tuple[float, ...], chance: random.Random) -> int:
    left = chance.random()
    for value, probability in enumerate(probabilities):
        left -= probability
        if left < 0:
            return value
    return max(range(len(probabilities)), key=probabilities.__getitem__)


def _is_digit(word: str) -> bool:
    return len(word) == 1 and word in "0123456789"


def _is_operation(word: str) -> bool:
    return len(word) == 2 and word[0] in SIGNS and _is_digit(word[1])
