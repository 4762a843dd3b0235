"""Word problems: somebody has something, others have more or less of it, and some of it comes and goes.

    Ana has 12 apples. Ben has 5 more than Ana. Cleo has half as many as Ben. How many does Cleo have?

Each sentence after the first changes one number by one operation. What makes them hard is the phrasing: each has another operation that it
is confused with.
"""

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from oprime.tasks.prose.chance import below, one_of
from oprime.tasks.prose.problem import Choice, Kind, Solution, misread

NAMES = ("Ana", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gina", "Hugo", "Iris", "Jon")
THINGS = ("apples", "books", "coins", "cards", "eggs", "pens", "shells", "stamps")
MOVES = 3
"""Sentences that change a number."""
SMALLEST, LARGEST = 1, 30
"""Of all numbers that come up, also after wrong decisions of operation."""


@dataclass(frozen=True, slots=True)
class Operation:
    """What is done with a number."""

    sign: str
    apply: Callable[[int, int], int]


ADD = Operation("+", lambda value, operand: value + operand)
SUBTRACT = Operation("-", lambda value, operand: value - operand)
MULTIPLY = Operation("*", lambda value, operand: value * operand)
DIVIDE = Operation("/", lambda value, operand: value // operand)
"""Rounded down where it does not divide, which happens after wrong steps alone."""


@dataclass(frozen=True, slots=True)
class Phrasing:
    """One way to say an operation, and the operation it is confused with."""

    name: str
    text: str
    """With {x} for whose number this gives, {y} for whose number it starts from, {n} for the operand."""
    right: Operation
    confuser: Operation
    operand: int = 0
    """An operand that the text fixes; 0 lets it be drawn."""

    @property
    def is_turned(self) -> bool:
        """Whether it speaks of the known person first, so that the same words mean the opposite of what they mean otherwise."""
        return self.text.startswith("{y}")

    @property
    def is_change(self) -> bool:
        """Whether it changes the number that somebody has, rather than compare two people's."""
        return "{y}" not in self.text


PHRASINGS = (
    Phrasing("more", "{x} has {n} more than {y}.", ADD, SUBTRACT),
    Phrasing("fewer", "{x} has {n} fewer than {y}.", SUBTRACT, ADD),
    Phrasing("exceeded", "{y} has {n} more than {x}.", SUBTRACT, ADD),
    Phrasing("short", "{y} has {n} fewer than {x}.", ADD, SUBTRACT),
    Phrasing("lacks", "{x} lacks {n} to have as many as {y}.", SUBTRACT, ADD),
    Phrasing("beats", "{x} beats {y} by {n}.", ADD, SUBTRACT),
    Phrasing("beaten", "{y} beats {x} by {n}.", SUBTRACT, ADD),
    Phrasing("twice", "{x} has twice as many as {y}.", MULTIPLY, ADD, 2),
    Phrasing("half", "{x} has half as many as {y}.", DIVIDE, SUBTRACT, 2),
    Phrasing("twice of other", "{y} has twice as many as {x}.", DIVIDE, MULTIPLY, 2),
    Phrasing("half of other", "{y} has half as many as {x}.", MULTIPLY, DIVIDE, 2),
    Phrasing("finds", "{x} finds {n}.", ADD, SUBTRACT),
    Phrasing("loses", "{x} loses {n}.", SUBTRACT, ADD),
    Phrasing("is given", "{x} is given {n}.", ADD, SUBTRACT),
    Phrasing("gives away", "{x} gives away {n}.", SUBTRACT, ADD),
    Phrasing("gets back", "{x} gets {n} back.", ADD, SUBTRACT),
    Phrasing("doubles", "{x} doubles that.", MULTIPLY, ADD, 2),
    Phrasing("halves", "{x} keeps half.", DIVIDE, SUBTRACT, 2),
)
"""All of them. Which operation a turned one means is told by the order of names alone, which takes a small model long to learn: starting
models are made on all, and the task has the others."""
PLAIN = tuple(phrasing for phrasing in PHRASINGS if not phrasing.is_turned)


@dataclass(frozen=True, slots=True)
class Move:
    """One sentence: a phrasing, the name whose number it gives, and its operand."""

    phrasing: Phrasing
    name: str
    operand: int

    def operation(self, choice: Choice) -> tuple[Operation, int]:
        """What a solver does who chose so."""
        operation = self.phrasing.confuser if choice is Choice.CONFUSER else self.phrasing.right
        is_misread = choice is Choice.MISREAD and not self.phrasing.operand
        return operation, misread(self.operand) if is_misread else self.operand


@dataclass(frozen=True, slots=True)
class WordProblem:
    """A first sentence that gives a number, and sentences that change it."""

    name: str
    thing: str
    start: int
    moves: tuple[Move, ...]

    @property
    def kind(self) -> Kind:
        return "math"

    @property
    def prompt(self) -> str:
        sentences, before = [f"{self.name} has {self.start} {self.thing}."], self.name
        for move in self.moves:
            sentences.append(move.phrasing.text.format(x=move.name, y=before, n=move.operand))
            before = move.name
        return " ".join([*sentences, f"How many does {before} have?"])

    @property
    def phrasings(self) -> tuple[str, ...]:
        return tuple(f"math: {move.phrasing.name}" for move in self.moves)

    @property
    def ground_truth(self) -> str:
        return str(self.value([Choice.RIGHT] * len(self.moves)))

    def value(self, choices: Sequence[Choice]) -> int:
        """The last number that these choices lead to."""
        return [self.start, *self.values(choices)][-1]

    def values(self, choices: Sequence[Choice]) -> list[int]:
        """What each step that is not skipped leads to."""
        return [result for _, result in self._results(choices)]

    def solution(self, choices: Sequence[Choice]) -> Solution:
        return Solution(
            given=f"{self.name} has {self.start}",
            steps=tuple(step for step, _ in self._results(choices)),
            output=f"\\boxed{{{self.value(choices)}}}",
        )

    def _results(self, choices: Sequence[Choice]) -> Iterator[tuple[str, int]]:
        """Each step that is not skipped, and the number it leads to."""
        value = self.start
        for move, choice in zip(self.moves, choices, strict=True):
            if choice is Choice.SKIP:
                continue
            operation, operand = move.operation(choice)
            result = operation.apply(value, operand)
            yield f"{move.name} has {value} {operation.sign} {operand} = {result}", result
            value = result


def draw(drawn: random.Random, phrasings: Sequence[Phrasing] = PLAIN) -> WordProblem:
    """A problem in which every wrong operation leads to a wrong answer, by numbers that are never out of range."""
    while True:
        found = _attempt(drawn, phrasings)
        if found is not None and _is_fair(found):
            return found


def _attempt(drawn: random.Random, phrasings: Sequence[Phrasing]) -> WordProblem | None:
    name, start = one_of(drawn, NAMES), 4 + below(drawn, 12)
    moves: list[Move] = []
    used = {name}
    for _ in range(MOVES):
        phrasing = one_of(drawn, phrasings)
        last = moves[-1].name if moves else name
        next_name = last if phrasing.is_change else one_of(drawn, [other for other in NAMES if other not in used])
        used.add(next_name)
        moves.append(Move(phrasing, next_name, phrasing.operand or 2 + below(drawn, 4)))
    if len({move.phrasing for move in moves}) < MOVES:
        return None
    return WordProblem(name, one_of(drawn, THINGS), start, tuple(moves))


def _is_fair(posed: WordProblem) -> bool:
    right = posed.value([Choice.RIGHT] * MOVES)
    for choices in itertools.product((Choice.RIGHT, Choice.CONFUSER), repeat=MOVES):
        values = posed.values(choices)
        if not all(SMALLEST <= value <= LARGEST for value in values):
            return False
        if choices.count(Choice.CONFUSER) == 1 and values[-1] == right:
            return False
    return _divides(posed)


def _divides(posed: WordProblem) -> bool:
    """Whether no division of the right solution has a remainder."""
    value = posed.start
    for move in posed.moves:
        if move.phrasing.right is DIVIDE and value % move.operand:
            return False
        value = move.phrasing.right.apply(value, move.operand)
    return True
