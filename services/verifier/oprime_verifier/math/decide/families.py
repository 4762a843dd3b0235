"""Families over the whole numbers: pi/4 + k pi for k in Z, whatever the letter and wherever the counting starts."""

from collections.abc import Callable
from fractions import Fraction
from math import lcm

from oprime_verifier.math.decide import probe
from oprime_verifier.math.decide.labels import is_one_name, label
from oprime_verifier.math.decide.normal import constant_ratio, normal
from oprime_verifier.math.decide.relations import named_value, split_name
from oprime_verifier.math.decide.scalar import Scalars
from oprime_verifier.math.decide.signs import with_signs_listed
from oprime_verifier.math.decide.verdicts import Same, matched
from oprime_verifier.math.tree.build import replaced
from oprime_verifier.math.tree.values import (
    EXPRESSIONS,
    ZERO,
    Add,
    Expr,
    Family,
    Items,
    Mul,
    Num,
    Relation,
    Sym,
    TooLargeError,
    Value,
    free_symbols,
    integer,
    negative,
)

WHOLE_LETTERS = frozenset("jklmnpqrst")
"""Letters that run over the whole numbers without being declared."""
MAX_CLASSES = 24
"""Classes into which two families are split to be compared."""

Class = tuple[Expr, Fraction]
"""Where a family starts, and its step as a multiple of one step."""


def same_families(gold: Value, answer: Value, scalars: Scalars) -> Same:
    """Equality where at least one side is a family; the other one may leave out what its letter is."""
    if not isinstance(gold, Family):
        gold = _like(gold, answer)
    if not isinstance(answer, Family):
        answer = _like(answer, gold)
    if not isinstance(gold, Family) or not isinstance(answer, Family) or gold.domain != answer.domain:
        return Same.NO
    if not _have_one_name(gold, answer):
        return Same.NO
    golds, answers = _members(gold, scalars), [replaced(tree, Sym(answer.name), Sym(gold.name)) for tree in _members(answer, scalars)]
    if gold.domain == "Z":
        classes = _classes(golds, answers, Sym(gold.name), scalars)
        if classes is not None:
            return classes
    return matched(golds, answers, scalars.same)


def _like(value: Value, family: Value) -> Value:
    """The value as a family with the one letter that the other family does not know."""
    if not isinstance(family, Family) or not isinstance(value, (*EXPRESSIONS, Items, Relation)):
        return value
    values = value.items if isinstance(value, Items) else (value,)
    sides = [split_name(item)[1] if isinstance(item, Relation) else (item,) for item in values]
    known = free_symbols(family) - {family.name}
    names = frozenset[str]().union(*(free_symbols(part) for side in sides for part in side)) - known
    name = next(iter(names)) if len(names) == 1 else ""
    return Family(tuple(values), name, family.domain) if name in WHOLE_LETTERS else value


def _have_one_name(gold: Family, answer: Family) -> bool:
    names = [[split_name(item)[0] for item in family.values if isinstance(item, Relation)] for family in (gold, answer)]
    one, other = ([name for name in side if name is not None] for side in names)
    return not (one and other) or all(is_one_name(label(first), label(second)) for first in one for second in other)


def _members(family: Family, scalars: Scalars) -> list[Expr]:
    found: list[Expr] = []
    for item in family.values:
        values = named_value(item, scalars)[:1] if isinstance(item, Relation) else (item,)
        for value in values:
            listed = with_signs_listed(value)
            found += [part for part in (listed.items if isinstance(listed, Items) else (listed,)) if isinstance(part, EXPRESSIONS)]
    return found


def _classes(golds: list[Expr], answers: list[Expr], name: Sym, scalars: Scalars) -> Same | None:
    """The verdict on classes of one step; None where a member is not linear in its letter or the steps have no common measure."""
    steps = [_step(tree, name, scalars) for tree in (*golds, *answers)]
    unit = steps[0] if steps else None
    if unit is None:
        return None
    scales = [None if step is None else _ratio(step, unit) for step in steps]
    whole = [abs(scale) for scale in scales if scale]
    if len(whole) < len(scales):
        return None
    period = _common_multiple(whole)
    if sum(period / scale for scale in whole) > MAX_CLASSES:
        return None
    starts: list[Expr] = [
        Add((replaced(tree, name, ZERO), _times(unit, scale * turn)))
        for tree, scale in zip((*golds, *answers), whole, strict=True)
        for turn in range(int(period / scale))
    ]
    split = sum(int(period / scale) for scale in whole[: len(golds)])

    def same(one: Expr, other: Expr) -> Same:
        return _is_whole(Add((one, negative(other))), _times(unit, period), scalars)

    return matched(_distinct(starts[:split], same), _distinct(starts[split:], same), same)


def _distinct(starts: list[Expr], same: Callable[[Expr, Expr], Same]) -> list[Expr]:
    found: list[Expr] = []
    for start in starts:
        if not any(same(other, start) is Same.YES for other in found):
            found.append(start)
    return found


def _step(tree: Expr, name: Sym, scalars: Scalars) -> Expr | None:
    """What one more adds; None where that is not always the same."""
    places = [replaced(tree, name, integer(place)) for place in (0, 1, 2, 5, 6)]
    step, second, later = (Add((places[high], negative(places[low]))) for low, high in ((0, 1), (1, 2), (3, 4)))
    is_linear = name.name in free_symbols(tree) and scalars.same(step, second) is scalars.same(step, later) is Same.YES
    return step if is_linear and scalars.same(step, ZERO) is Same.NO else None


def _ratio(one: Expr, other: Expr) -> Fraction | None:
    left, right = normal(one), normal(other)
    try:
        return None if left is None or right is None else constant_ratio(left, right)
    except TooLargeError:
        return None


def _is_whole(difference: Expr, period: Expr, scalars: Scalars) -> Same:
    """Whether a difference is a whole number of periods."""
    ratio = _ratio(difference, period)
    if ratio is not None:
        return Same.YES if ratio.denominator == 1 else Same.NO
    above, below = probe.number(difference), probe.number(period)
    if above is None or below is None:
        return Same.NO
    turns = (above / below).real
    return scalars.same(difference, _times(period, Fraction(round(float(turns))))) if abs(turns) < 10**6 else Same.UNKNOWN


def _times(tree: Expr, factor: Fraction) -> Expr:
    return Mul((tree, Num(factor)))


def _common_multiple(values: list[Fraction]) -> Fraction:
    below = lcm(*(value.denominator for value in values))
    return Fraction(lcm(*(int(value * below) for value in values)), below)
