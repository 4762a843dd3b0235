"""Sets of real numbers as unions of intervals, from intervals, braces, set operations and solved inequalities."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from oprime_verifier.math.decide import probe
from oprime_verifier.math.decide.normal import ONE, normal
from oprime_verifier.math.decide.verdicts import Same, every
from oprime_verifier.math.tree.values import (
    EXPRESSIONS,
    INFINITY,
    MINUS_ONE,
    Add,
    Bracketed,
    Call,
    Expr,
    Items,
    Mul,
    NamedSet,
    Num,
    Relation,
    SetExpr,
    SetOf,
    Sym,
    Value,
    negative,
    symbols,
)

MINUS_INFINITY = Mul((MINUS_ONE, INFINITY))
MAX_PARTS = 64
_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "!=": "!="}


class NotASetError(ValueError):
    """The value is no set of real numbers that can be written as intervals."""


@dataclass(frozen=True, slots=True)
class End:
    place: Any
    """The end as a float-like number, infinite at the open ends."""
    written: Expr


@dataclass(frozen=True, slots=True)
class Interval:
    low: End
    high: End
    low_closed: bool
    high_closed: bool

    @property
    def is_empty(self) -> bool:
        return self.low.place > self.high.place or (self.low.place == self.high.place and not (self.low_closed and self.high_closed))


EVERYTHING = Interval(End(float("-inf"), MINUS_INFINITY), End(float("inf"), INFINITY), False, False)


def same_sets(gold: Value, answer: Value, same: Callable[[Expr, Expr], Same]) -> Same | None:
    """Whether both are one set of real numbers; None where one of them is no such set."""
    try:
        expected, found = real_set(gold), real_set(answer)
    except NotASetError:
        return None
    return same_intervals(expected, found, same)


def same_intervals(gold: list[Interval], answer: list[Interval], same: Callable[[Expr, Expr], Same]) -> Same:
    """Whether disjoint intervals in order are the same."""
    if len(gold) != len(answer):
        return Same.NO
    return every(_same_interval(*pair, same) for pair in zip(gold, answer, strict=True))


def _same_interval(gold: Interval, answer: Interval, same: Callable[[Expr, Expr], Same]) -> Same:
    if (gold.low_closed, gold.high_closed) != (answer.low_closed, answer.high_closed):
        return Same.NO
    return every((same(gold.low.written, answer.low.written), same(gold.high.written, answer.high.written)))


def real_set(value: Value) -> list[Interval]:
    """Disjoint intervals in order. Raises NotASetError."""
    return merged(_parts(value))


def _parts(value: Value) -> list[Interval]:
    if isinstance(value, Bracketed):
        return [_interval(value)]
    if isinstance(value, SetOf):
        return [_single(item) for item in value.items]
    if isinstance(value, NamedSet) and value.name in ("R", "empty"):
        return [EVERYTHING] if value.name == "R" else []
    if isinstance(value, SetExpr):
        return _combined(value)
    if isinstance(value, Relation):
        return _solved(value)
    if isinstance(value, Items) and all(isinstance(item, Relation | Bracketed) for item in value.items) and value.joiner != ",":
        return _joined(value)
    raise NotASetError("no set of real numbers")


def _joined(value: Items) -> list[Interval]:
    if len({name for item in value.items for name in symbols(item)}) > 1:
        raise NotASetError("conditions on several variables")
    parts = [real_set(item) for item in value.items]
    if value.joiner == "or":
        return [interval for part in parts for interval in part]
    found = parts[0]
    for part in parts[1:]:
        found = intersection(found, part)
    return found


def _combined(value: SetExpr) -> list[Interval]:
    left, right = (real_set(part) for part in value.parts)
    if value.operator == "union":
        return left + right
    return intersection(left, right if value.operator == "intersection" else complement(right))


def _interval(value: Bracketed) -> Interval:
    if len(value.items) != 2 or value.opening not in "([" or value.closing not in ")]":
        raise NotASetError("a tuple")
    low, high = (_end(item) for item in value.items)
    return Interval(low, high, value.opening == "[" and low.place != float("-inf"), value.closing == "]" and high.place != float("inf"))


def _single(value: Value) -> Interval:
    end = _end(value)
    return Interval(end, end, True, True)


def _end(value: Value) -> End:
    if value == INFINITY:
        return End(float("inf"), INFINITY)
    if value == MINUS_INFINITY:
        return End(float("-inf"), MINUS_INFINITY)
    number = probe.number(value) if isinstance(value, EXPRESSIONS) and not symbols(value) else None
    if number is None or abs(number.imag) != 0:
        raise NotASetError("an end that is no real number")
    return End(number.real, value)  # pyright: ignore[reportArgumentType]


def merged(parts: list[Interval]) -> list[Interval]:
    if len(parts) > MAX_PARTS:
        raise NotASetError(f"more than {MAX_PARTS} intervals")
    found: list[Interval] = []
    for part in sorted((part for part in parts if not part.is_empty), key=lambda part: (part.low.place, not part.low_closed)):
        if found and _touches(found[-1], part):
            found[-1] = _hull(found[-1], part)
        else:
            found.append(part)
    return found


def _touches(left: Interval, right: Interval) -> bool:
    if right.low.place < left.high.place:
        return True
    return right.low.place == left.high.place and (left.high_closed or right.low_closed)


def _hull(left: Interval, right: Interval) -> Interval:
    if right.high.place > left.high.place:
        return replace(left, high=right.high, high_closed=right.high_closed)
    if right.high.place == left.high.place:
        return replace(left, high_closed=left.high_closed or right.high_closed)
    return left


def intersection(left: list[Interval], right: list[Interval]) -> list[Interval]:
    found: list[Interval] = []
    for one in left:
        for other in right:
            low, low_closed = max(((part.low, part.low_closed) for part in (one, other)), key=lambda end: (end[0].place, not end[1]))
            high, high_closed = min(((part.high, part.high_closed) for part in (one, other)), key=lambda end: (end[0].place, end[1]))
            found.append(Interval(low, high, low_closed, high_closed))
    return [part for part in found if not part.is_empty]


def complement(parts: list[Interval]) -> list[Interval]:
    found, low, closed = list[Interval](), EVERYTHING.low, False
    for part in parts:
        found.append(Interval(low, part.low, closed, not part.low_closed))
        low, closed = part.high, not part.high_closed
    found.append(Interval(low, EVERYTHING.high, closed, False))
    return [part for part in found if not part.is_empty]


# Inequalities


def _solved(relation: Relation) -> list[Interval]:
    """The solutions of a chain in one variable, each link of which is linear or bounds an absolute value."""
    if relation.operators == ("in",):
        return real_set(relation.sides[1])
    relation = Relation(
        tuple(Sym("@") if isinstance(side, Call) and side.name[0] == "@" else side for side in relation.sides), relation.operators
    )
    names = symbols(relation)
    if len(names) != 1 or not set(relation.operators) <= _FLIPPED.keys():
        raise NotASetError("no inequality in one variable")
    (name,) = names
    found = [EVERYTHING]
    for left, operator, right in zip(relation.sides, relation.operators, relation.sides[1:], strict=False):
        if not (isinstance(left, EXPRESSIONS) and isinstance(right, EXPRESSIONS)):
            raise NotASetError("an inequality between what are no numbers")
        found = intersection(found, _link(left, operator, right, name))
    return found


def _link(left: Expr, operator: str, right: Expr, name: str) -> list[Interval]:
    if name in symbols(right):
        if name in symbols(left):
            left, right = Add((left, negative(right))), Num(Fraction(0))
        else:
            left, right, operator = right, left, _FLIPPED[operator]
    if left == Sym(name):
        return _half_line(operator, right)
    if isinstance(left, Call) and left.name == "abs":
        return _around(left.args[0], operator, right, name)
    slope, start = _linear(left, name)
    bound = Mul((Add((right, Num(-start))), Num(1 / slope)))
    return _half_line(operator if slope > 0 else _FLIPPED[operator], bound)


def _linear(tree: Expr, name: str) -> tuple[Fraction, Fraction]:
    quotient = normal(tree)
    variable = ((f"v:{name}", Fraction(1)),)
    if quotient is None or set(quotient.lower) != {ONE} or not {variable} <= set(quotient.upper) <= {variable, ONE}:
        raise NotASetError("an inequality that is not linear")
    scale = quotient.lower[ONE]
    return quotient.upper[variable] / scale, quotient.upper.get(ONE, Fraction(0)) / scale


def _half_line(operator: str, bound: Expr) -> list[Interval]:
    end = _end(bound)
    if operator == "!=":
        return complement([Interval(end, end, True, True)])
    if operator in (">", ">="):
        return [Interval(end, EVERYTHING.high, operator == ">=", False)]
    return [Interval(EVERYTHING.low, end, False, operator == "<=")]


def _around(inner: Expr, operator: str, bound: Expr, name: str) -> list[Interval]:
    """|a x + b| < c and its like."""
    below = intersection(_link(inner, "<", bound, name), _link(inner, ">", negative(bound), name))
    closed = intersection(_link(inner, "<=", bound, name), _link(inner, ">=", negative(bound), name))
    if operator in ("<", "<="):
        return below if operator == "<" else closed
    if operator == "!=":
        raise NotASetError("an absolute value that differs")
    return complement(merged(closed if operator == ">" else below))
