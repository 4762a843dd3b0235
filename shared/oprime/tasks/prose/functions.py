"""Function problems: a small Python function, described in a sentence per statement, with tests.

    Write f(a, b). Start with the larger of a and b. Take away 3. Then make it no more than 5.

The first sentence gives a value x from the arguments; each later one changes x. As with word problems it is phrasings that mislead:
"no more than 5" is min(x, 5), and whoever goes by the word "more" writes max.
"""

import itertools
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from oprime.tasks.prose.chance import below, one_of
from oprime.tasks.prose.problem import Choice, Kind, Solution, misread

MOVES = 2
"""Sentences after the first."""
TESTS = 4
"""Assert statements of a problem."""
TRIED_INPUTS = 6
LARGEST = 999
"""Of all absolute values that come up in tests."""

Arguments = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Beginning:
    """An expression of the arguments."""

    code: str
    apply: Callable[..., int]


@dataclass(frozen=True, slots=True)
class Change:
    """An expression of x and a number {k}."""

    code: str
    apply: Callable[[int, int], int]


@dataclass(frozen=True, slots=True)
class FirstPhrasing:
    """One way to say what to begin with."""

    name: str
    text: str
    right: Beginning
    confuser: Beginning


@dataclass(frozen=True, slots=True)
class ChangePhrasing:
    """One way to say how to go on, with {k} for a number."""

    name: str
    text: str
    right: Change
    confuser: Change

    @property
    def has_number(self) -> bool:
        return "{k}" in self.text


@dataclass(frozen=True, slots=True)
class Signature:
    """What a function takes, and what can be said of it."""

    parameters: str
    draw: Callable[[random.Random], Arguments]
    phrasings: tuple[FirstPhrasing, ...]


_LARGER, _SMALLER = Beginning("max(a, b)", lambda a, b: max(a, b)), Beginning("min(a, b)", lambda a, b: min(a, b))
_A_LESS_B, _B_LESS_A = Beginning("a - b", lambda a, b: a - b), Beginning("b - a", lambda a, b: b - a)
_SUM, _PRODUCT = Beginning("a + b", lambda a, b: a + b), Beginning("a * b", lambda a, b: a * b)
_UP_TO, _BELOW = Beginning("sum(range(n + 1))", lambda n: sum(range(n + 1))), Beginning("sum(range(n))", lambda n: sum(range(n)))
_SQUARE, _TWICE = Beginning("n * n", lambda n: n * n), Beginning("n + n", lambda n: n + n)
_FIRST, _SECOND = Beginning("xs[0]", lambda xs: xs[0]), Beginning("xs[1]", lambda xs: xs[1])
_LAST, _BEFORE_LAST = Beginning("xs[-1]", lambda xs: xs[-1]), Beginning("xs[-2]", lambda xs: xs[-2])
_LARGEST, _SMALLEST = Beginning("max(xs)", lambda xs: max(xs)), Beginning("min(xs)", lambda xs: min(xs))
_TOTAL, _COUNT = Beginning("sum(xs)", lambda xs: sum(xs)), Beginning("len(xs)", lambda xs: len(xs))


def _number(drawn: random.Random) -> int:
    return below(drawn, 19) - 9


SIGNATURES = (
    Signature(
        "a, b",
        lambda drawn: (_number(drawn), _number(drawn)),
        (
            FirstPhrasing("larger", "the larger of a and b", _LARGER, _SMALLER),
            FirstPhrasing("smaller", "the smaller of a and b", _SMALLER, _LARGER),
            FirstPhrasing("less", "a less b", _A_LESS_B, _B_LESS_A),
            FirstPhrasing("from", "a taken from b", _B_LESS_A, _A_LESS_B),
            FirstPhrasing("sum", "the sum of a and b", _SUM, _PRODUCT),
            FirstPhrasing("product", "the product of a and b", _PRODUCT, _SUM),
        ),
    ),
    Signature(
        "n",
        lambda drawn: (1 + below(drawn, 9),),
        (
            FirstPhrasing("up to", "the sum of all numbers up to n", _UP_TO, _BELOW),
            FirstPhrasing("below", "the sum of all numbers below n", _BELOW, _UP_TO),
            FirstPhrasing("square", "the square of n", _SQUARE, _TWICE),
            FirstPhrasing("double", "the double of n", _TWICE, _SQUARE),
        ),
    ),
    Signature(
        "xs",
        lambda drawn: ([_number(drawn) for _ in range(2 + below(drawn, 4))],),
        (
            FirstPhrasing("first", "the first of xs", _FIRST, _SECOND),
            FirstPhrasing("second", "the second of xs", _SECOND, _FIRST),
            FirstPhrasing("last", "the last of xs", _LAST, _BEFORE_LAST),
            FirstPhrasing("before last", "the one before the last of xs", _BEFORE_LAST, _LAST),
            FirstPhrasing("largest", "the largest of xs", _LARGEST, _SMALLEST),
            FirstPhrasing("smallest", "the smallest of xs", _SMALLEST, _LARGEST),
            FirstPhrasing("total", "the total of xs", _TOTAL, _COUNT),
            FirstPhrasing("length", "the length of xs", _COUNT, _TOTAL),
        ),
    ),
)

_PLUS, _MINUS = Change("x + {k}", lambda x, k: x + k), Change("x - {k}", lambda x, k: x - k)
_FROM = Change("{k} - x", lambda x, k: k - x)
_TIMES, _MODULO = Change("x * {k}", lambda x, k: x * k), Change("x % {k}", lambda x, k: x % k)
_QUOTIENT = Change("x // {k}", lambda x, k: x // k)
_AT_MOST, _AT_LEAST = Change("min(x, {k})", min), Change("max(x, {k})", max)
_SIZE, _OPPOSITE = Change("abs(x)", lambda x, _: abs(x)), Change("-x", lambda x, _: -x)

CHANGES = (
    ChangePhrasing("add", "Add {k}.", _PLUS, _MINUS),
    ChangePhrasing("take away", "Take away {k}.", _MINUS, _FROM),
    ChangePhrasing("take from", "Take it from {k}.", _FROM, _MINUS),
    ChangePhrasing("times", "Take it {k} times.", _TIMES, _PLUS),
    ChangePhrasing("remainder", "Keep the remainder by {k}.", _MODULO, _QUOTIENT),
    ChangePhrasing("divide", "Divide by {k}, rounded down.", _QUOTIENT, _MODULO),
    ChangePhrasing("no more", "Make it no more than {k}.", _AT_MOST, _AT_LEAST),
    ChangePhrasing("no less", "Make it no less than {k}.", _AT_LEAST, _AT_MOST),
    ChangePhrasing("drop sign", "Drop the sign.", _SIZE, _OPPOSITE),
    ChangePhrasing("turn sign", "Turn the sign.", _OPPOSITE, _SIZE),
)


@dataclass(frozen=True, slots=True)
class FunctionProblem:
    """What a function begins with, how it goes on, and the inputs it is tested with."""

    parameters: str
    first: FirstPhrasing
    changes: tuple[tuple[ChangePhrasing, int], ...]
    inputs: tuple[Arguments, ...] = ()

    @property
    def kind(self) -> Kind:
        return "code"

    @property
    def prompt(self) -> str:
        changes = (phrasing.text.format(k=number) for phrasing, number in self.changes)
        return " ".join([f"Write f({self.parameters}). Start with {self.first.text}.", *changes])

    @property
    def phrasings(self) -> tuple[str, ...]:
        return (f"code: {self.first.name}", *(f"code: {phrasing.name}" for phrasing, _ in self.changes))

    @property
    def ground_truth(self) -> str:
        right = [Choice.RIGHT] * len(self.phrasings)
        return json.dumps([f"assert f({', '.join(map(repr, given))}) == {self.value(right, given)}" for given in self.inputs])

    def value(self, choices: Sequence[Choice], given: Arguments) -> int:
        """What the function of these choices returns for these arguments."""
        x = (self.first.confuser if choices[0] is Choice.CONFUSER else self.first.right).apply(*given)
        for change, number in self._chosen(choices):
            x = change.apply(x, number)
        return x

    def solution(self, choices: Sequence[Choice]) -> Solution:
        first = self.first.confuser if choices[0] is Choice.CONFUSER else self.first.right
        changes = (f"x = {change.code.format(k=number)}" for change, number in self._chosen(choices))
        steps = (f"x = {first.code}", *changes)
        lines = [f"def f({self.parameters}):", *(f"    {step}" for step in steps), "    return x"]
        return Solution(given=f"f takes {self.parameters}", steps=steps, output="\n".join(["```python", *lines, "```"]))

    def _chosen(self, choices: Sequence[Choice]) -> list[tuple[Change, int]]:
        """The changes that are made, and their numbers."""
        found: list[tuple[Change, int]] = []
        for (phrasing, number), choice in zip(self.changes, choices[1:], strict=True):
            if choice is Choice.SKIP:
                continue
            change = phrasing.confuser if choice is Choice.CONFUSER else phrasing.right
            found.append((change, misread(number) if choice is Choice.MISREAD and phrasing.has_number else number))
        return found


def draw(drawn: random.Random) -> FunctionProblem:
    """A problem whose tests tell every wrong expression from the right one."""
    while True:
        signature = one_of(drawn, SIGNATURES)
        first = one_of(drawn, signature.phrasings)
        changes = tuple((one_of(drawn, CHANGES), 2 + below(drawn, 8)) for _ in range(MOVES))
        posed = FunctionProblem(signature.parameters, first, changes)
        if len({phrasing for phrasing, _ in changes}) < MOVES:
            continue
        for _ in range(TRIED_INPUTS):
            inputs = tuple(signature.draw(drawn) for _ in range(TESTS))
            if len(set(map(repr, inputs))) == TESTS and _tell_apart(posed, inputs):
                return FunctionProblem(signature.parameters, first, changes, inputs)


def _tell_apart(posed: FunctionProblem, inputs: Sequence[Arguments]) -> bool:
    """Whether the inputs show every single wrong choice and no constant passes, and no value is out of range."""
    number = len(posed.phrasings)
    results: dict[tuple[Choice, ...], tuple[int, ...]] = {
        choices: tuple(posed.value(choices, given) for given in inputs)
        for choices in itertools.product((Choice.RIGHT, Choice.CONFUSER), repeat=number)
    }
    right = results[(Choice.RIGHT,) * number]
    if len(set(right)) == 1 or max(abs(value) for values in results.values() for value in values) > LARGEST:
        return False
    return all(_one_wrong(place, number, results) != right for place in range(number))


def _one_wrong(place: int, number: int, results: Mapping[tuple[Choice, ...], tuple[int, ...]]) -> tuple[int, ...]:
    return results[tuple(Choice.CONFUSER if other == place else Choice.RIGHT for other in range(number))]
