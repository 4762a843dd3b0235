"""Plus-minus signs as the lists of values that they stand for."""

from fractions import Fraction
from itertools import product

from oprime_verifier.math.decide.probe import exact_or_none
from oprime_verifier.math.tree.build import mapped
from oprime_verifier.math.tree.values import (
    EXPRESSIONS,
    Bracketed,
    Expr,
    Items,
    Matrix,
    Num,
    Quantity,
    Relation,
    SetExpr,
    SetOf,
    Sign,
    Value,
    negative,
    walk,
)

_ONE = Fraction(1)


def with_signs_listed(value: Value) -> Value:
    """A plus-minus as the list of its values; inside a list or set, as more items."""
    if isinstance(value, Items | SetOf):
        if not _has_sign(value):
            return value
        items = tuple(part for item in value.items for part in _signs_listed(item))
        return Items(items, value.joiner) if isinstance(value, Items) else SetOf(items)
    if not _has_sign(value):
        return value
    listed = _signs_listed(value)
    # x is neither of the values that it differs from.
    joiner = "and" if isinstance(value, Relation) and value.operators == ("!=",) else ","
    return listed[0] if len(listed) == 1 else Items(tuple(listed), joiner)


def _has_sign(value: Value) -> bool:
    return any(isinstance(part, Sign) for part in walk(value))


def _signs_listed(value: Value) -> list[Value]:
    indices = sorted({part.index for part in walk(value) if isinstance(part, Sign)})
    found: list[Value] = []
    for signs in product((1, -1), repeat=len(indices)):
        chosen = _chosen(value, dict(zip(indices, signs, strict=True)))
        number = exact_or_none(chosen) if isinstance(chosen, EXPRESSIONS) else None
        chosen = chosen if number is None else Num(number)
        if chosen not in found:
            found.append(chosen)
    return found


def _chosen(value: Value, signs: dict[int, int]) -> Value:  # noqa: C901, PLR0911 - one line for each kind of value
    def choose(part: Expr) -> Expr:
        if not isinstance(part, Sign):
            return part
        positive = (signs[part.index] > 0) != part.flipped
        one = Num(_ONE)
        return one if positive else negative(one)

    if isinstance(value, EXPRESSIONS):
        return mapped(value, choose)
    if isinstance(value, Relation):
        return Relation(tuple(_chosen(side, signs) for side in value.sides), value.operators)
    if isinstance(value, Bracketed):
        return Bracketed(tuple(_chosen(item, signs) for item in value.items), value.opening, value.closing)
    if isinstance(value, Quantity):
        return Quantity(mapped(value.value, choose), value.unit)
    if isinstance(value, SetExpr):
        return SetExpr(value.operator, tuple(_chosen(part, signs) for part in value.parts))
    if isinstance(value, Matrix):
        return Matrix(tuple(tuple(mapped(entry, choose) for entry in row) for row in value.rows))
    if isinstance(value, SetOf):
        return SetOf(tuple(_chosen(item, signs) for item in value.items))
    return value
