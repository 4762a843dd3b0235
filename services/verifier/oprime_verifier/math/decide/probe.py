"""Numeric evidence: two expressions that differ at one point are different. Agreement is no proof, and says so."""

import random
from dataclasses import dataclass
from enum import Enum
from typing import Any

from oprime_verifier.math.decide.numeric import Evaluator, HugeError, NoNumberError, context
from oprime_verifier.math.tree import exact
from oprime_verifier.math.tree.values import Call, Const, Expr, Mul, Num, Pow, TooLargeError, children, free_symbols, symbols, walk

Point = tuple[tuple[str, tuple[int, int]], ...]
"""Variables with their values as fractions."""
_NOWHERE: Point = ()

POINTS = 12
STEPPED_POINTS = 8
"""More points, whole and half, where floors and their like may jump."""
ENOUGH = 4
START_DIGITS = 40
MAX_DIGITS = 4000
MAX_HEIGHT = 1000
"""Digits that the numbers of two expressions may have before agreement says nothing."""
_INTEGER_FUNCTIONS = frozenset({"factorial", "factorial2", "binom", "mod", "sum", "prod", "gcd", "lcm"})
_BRANCHING = frozenset({"root", "ln", "log", "logb", "asin", "acos", "atan", "acot", "asec", "acsc", "acosh", "atanh", "arg"})
_STEPS = frozenset({"floor", "ceil", "mod", "sign", "max", "min", "abs", "gcd", "lcm"})


class Evidence(Enum):
    DIFFERENT = "different"
    AGREE = "agree"
    """Equal to all computed digits at every point where both have a value."""
    UNDEFINED = "undefined"
    """One of them has no value anywhere that was tried."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Pair:
    left: Expr
    right: Expr


def compare(left: Expr, right: Expr) -> Evidence:
    """What numbers say about the equality of two expressions."""
    names = sorted(free_symbols(left) | free_symbols(right))
    points = _points(names, left, right) if names or has_unknown(left) or has_unknown(right) else [_NOWHERE]
    found = _at_points(Pair(left, right), points, START_DIGITS)
    height = _height(left) + _height(right) if found is Evidence.AGREE else 0
    if height > MAX_HEIGHT:
        return Evidence.UNKNOWN
    # Few digits tell most differences; only agreement is worth the many that a near miss may hide behind.
    return _at_points(Pair(left, right), points, START_DIGITS + 2 * height) if height else found


def has_unknown(tree: Expr) -> bool:
    """Whether a function of which nothing is known is part of it."""
    return any(isinstance(part, Call) and part.name[0] == "@" for part in walk(tree))


def _at_points(pair: Pair, points: list[Point], digits: int) -> Evidence:
    if points == [_NOWHERE]:
        return _at_point(pair, _NOWHERE, digits, undefined=Evidence.UNDEFINED)
    agreed = 0
    for point in points:
        found = _at_point(pair, point, digits)
        if found is Evidence.DIFFERENT:
            return found
        agreed += found is Evidence.AGREE
    return Evidence.AGREE if agreed >= ENOUGH else Evidence.UNKNOWN


def is_analytic(tree: Expr) -> bool:
    """Whether it is one analytic function wherever it has a value, so that agreement at random points is agreement everywhere.

    Steps are none, and neither are roots and logarithms of what has variables: their branches may agree on one side of a point alone.
    """
    return not any(_branches(part) for part in walk(tree))


def _branches(part: object) -> bool:
    if isinstance(part, Pow):
        exponent = exact_or_none(part.exponent)
        return bool(free_symbols(part.base)) and (exponent is None or exponent.denominator != 1)
    if not isinstance(part, Call):
        return False
    return part.name in _STEPS or (part.name in _BRANCHING and bool(free_symbols(part)))


def number(tree: Expr, digits: int = START_DIGITS) -> Any:
    """The numeric value of a constant as mpf or mpc; None where it has none."""
    try:
        return Evaluator(digits, {}).value(tree)
    except (NoNumberError, TooLargeError, exact.UndefinedError, ArithmeticError, TypeError, ValueError, RecursionError):
        return None


def _height(tree: Expr) -> int:
    """Digits of the exact numbers in the tree: what a near miss could hide behind."""
    try:
        value = None if isinstance(tree, Call) and tree.name in ("sum", "prod") else exact.rational(tree)
    except (exact.UndefinedError, TooLargeError):
        return MAX_HEIGHT + 1
    if value is not None:
        return (value.numerator.bit_length() + value.denominator.bit_length()) * 3 // 10 + 1
    own = _exponent_height(tree) if isinstance(tree, Pow) else 0
    return own + sum(_height(part) for part in children(tree))  # pyright: ignore[reportArgumentType]


def _exponent_height(tree: Pow) -> int:
    """Digits that e^(-1000) adds: a constant exponent makes a number as small as it likes."""
    if free_symbols(tree.exponent):
        return 0
    exponent = number(tree.exponent, 15)
    return MAX_HEIGHT + 1 if exponent is None or abs(exponent) > MAX_HEIGHT else int(abs(exponent))


def exact_or_none(tree: Expr) -> Any:
    try:
        return exact.rational(tree)
    except (exact.UndefinedError, TooLargeError):
        return None


def _points(names: list[str], left: Expr, right: Expr) -> list[Point]:
    whole = _integer_names(left) | _integer_names(right)
    stepped = not (_is_stepless(left) and _is_stepless(right))
    found: list[Point] = []
    for seed in range(POINTS + (STEPPED_POINTS if stepped else 0)):
        chance = random.Random(seed)  # noqa: S311 - points must be repeatable, not secret
        values = (_sample(chance, seed, whole=name in whole) for name in names)
        found.append(tuple((name, _signed(value, seed, place)) for place, (name, value) in enumerate(zip(names, values, strict=True))))
    # Without a variable the points differ in what functions of which nothing is known are worth.
    return found if names else [(("", (seed, 1)),) for seed in range(POINTS)]


def _is_stepless(tree: Expr) -> bool:
    return not any(isinstance(part, Call) and part.name in _STEPS for part in walk(tree))


def _sample(chance: random.Random, seed: int, *, whole: bool) -> tuple[int, int]:
    """A number as a fraction; whole numbers have the denominator 1."""
    if whole:
        return chance.randint(2, 9 + 2 * seed), 1
    if seed >= POINTS:  # where steps are
        return chance.randint(-9, 9), chance.choice((1, 1, 2))
    low, high = (101, 900) if seed % 3 == 2 else (101, 4000)
    return chance.randint(low, high), chance.choice((997, 1009, 1013))


def _signed(value: tuple[int, int], seed: int, place: int) -> tuple[int, int]:
    """The value of the variable at a place, with the sign that it has at a point: at every second one the signs differ among variables."""
    upper, lower = value
    if lower < 3 or seed % 2 == 0:
        return value
    negative = ((place + 1) % 2, True, place % 2, (place // 2) % 2, (place // 2 + 1) % 2, place % 3 == 0)[seed // 2 % 6]
    return (-upper if negative else upper), lower


def _integer_names(tree: Expr) -> frozenset[str]:
    """Variables that stand where integers belong."""
    found: set[str] = set()
    for part in walk(tree):
        if isinstance(part, Call) and part.name in _INTEGER_FUNCTIONS:
            found |= symbols(part)
        elif isinstance(part, Pow) and not isinstance(part.exponent, Num):
            base = exact_or_none(part.base)
            if base is not None and base < 0:
                found |= symbols(part.exponent)
    return frozenset(found)


def _at_point(pair: Pair, point: Point, digits: int, undefined: Evidence = Evidence.UNKNOWN) -> Evidence:
    try:
        return _escalating(pair, point, digits)
    except exact.UndefinedError:
        return undefined
    except HugeError:
        return _by_size(pair) if point == _NOWHERE else Evidence.UNKNOWN
    except (NoNumberError, TooLargeError, ArithmeticError, TypeError, ValueError, RecursionError):
        # A TypeError is an order of complex numbers, which have none.
        return Evidence.UNKNOWN


def _escalating(pair: Pair, point: Point, digits: int) -> Evidence:
    """A difference counts when more digits confirm it; agreement when it shrinks with the digits."""
    imaginary = any(part == Const("i") for tree in (pair.left, pair.right) for part in walk(tree))
    rough, _ = _difference(pair, point, digits, imaginary)
    fine, scale = _difference(pair, point, 2 * digits, imaginary)
    mp = context(2 * digits)
    limit = mp.mpf(10) ** (-digits)
    if fine <= limit * scale:
        return Evidence.AGREE
    if abs(fine - rough) <= fine / 100:
        return Evidence.DIFFERENT
    return Evidence.UNKNOWN if digits * 4 > MAX_DIGITS else _escalating(pair, point, digits * 4)


def _difference(pair: Pair, point: Point, digits: int, imaginary: bool) -> tuple[Any, Any]:
    mp = context(digits)
    values = {name: mp.mpf(upper) / lower for name, (upper, lower) in point}
    evaluator = Evaluator(digits, values, chance=str(point), real=bool(point) and not imaginary)
    left, right = evaluator.value(pair.left), evaluator.value(pair.right)
    for value in (left, right):
        if not mp.isfinite(value):
            raise exact.UndefinedError("no finite value")
        if point and not imaginary and abs(mp.im(value)) > evaluator.tiny * abs(value):
            raise exact.UndefinedError("no real value")
    scale = max(abs(left), abs(right))
    return abs(left - right), scale if scale > 0 else mp.mpf(1)


def _by_size(pair: Pair) -> Evidence:
    """A value beyond all bounds differs from one that can be computed."""
    for big, small in ((pair.left, pair.right), (pair.right, pair.left)):
        if is_huge(big) and (value := number(small)) is not None and abs(value) < 10**1000:
            return Evidence.DIFFERENT
    return Evidence.UNKNOWN


def is_huge(tree: Expr) -> bool:
    """Whether the value is certainly larger than 10^1000 in absolute terms."""
    if isinstance(tree, Mul):
        return any(map(is_huge, tree.factors)) and all(is_huge(part) or _at_least(part, 1) for part in tree.factors)
    if isinstance(tree, Pow):
        if is_huge(tree.exponent):
            return _at_least(tree.base, 2)
        if _is_huge_power(tree):
            return True
        return (is_huge(tree.base) and _at_least(tree.exponent, 1)) or (_at_least(tree.base, 2) and _at_least(tree.exponent, 10**5))
    if isinstance(tree, Call):
        return is_huge_call(tree)
    return False


def _is_huge_power(tree: Pow) -> bool:
    """Whether a rational power is: its logarithm is at least the exponent times 1 - 1/base."""
    base, exponent = exact_or_none(tree.base), exact_or_none(tree.exponent)
    return base is not None and exponent is not None and base > 1 and exponent * (1 - 1 / base) > 2400


def is_huge_call(tree: Call) -> bool:
    if tree.name in ("factorial", "factorial2"):
        return is_huge(tree.args[0]) or _at_least(tree.args[0], 10**4)
    if tree.name == "binom":
        upper, lower = exact_or_none(tree.args[0]), exact_or_none(tree.args[1])
        return upper is not None and lower is not None and upper >= 10**5 and 2000 <= lower <= upper - 2000
    if tree.name == "prod":
        body, index, low, high = tree.args
        return body == index and _at_least(low, 1) and _at_least(high, 10**4)
    return False


def _at_least(tree: Expr, bound: int) -> bool:
    value = exact_or_none(tree)
    if value is not None:
        return value >= bound
    approximate = number(tree)
    return approximate is not None and not isinstance(approximate, complex) and abs(approximate.imag) == 0 and approximate.real >= bound
