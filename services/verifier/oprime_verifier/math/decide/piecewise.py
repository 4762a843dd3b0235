"""Functions by cases: equal where the values are equal on each part of the line, whatever the order and the splitting of the cases."""

from collections.abc import Iterator
from fractions import Fraction

from oprime_verifier.math.decide import probe
from oprime_verifier.math.decide.normal import ONE, normal
from oprime_verifier.math.decide.scalar import Scalars
from oprime_verifier.math.decide.sets import EVERYTHING, Interval, NotASetError, complement, intersection, merged, real_set, same_intervals
from oprime_verifier.math.decide.verdicts import Same, every
from oprime_verifier.math.tree.build import mapped, replaced
from oprime_verifier.math.tree.values import (
    EXPRESSIONS,
    Call,
    Expr,
    Items,
    Num,
    Piecewise,
    Relation,
    SetOf,
    Sym,
    Value,
    negative,
    symbols,
    walk,
)

Piece = tuple[Interval, Expr]
_SAMPLES = 3


def same_piecewise(gold: Value, answer: Value, scalars: Scalars) -> Same:
    """Equality where at least one side is a function by cases."""
    try:
        name = _variable(gold, answer)
        expected, found = _pieces(gold), _pieces(answer)
    except NotASetError:
        return Same.YES if gold == answer else Same.UNKNOWN
    domains = [merged([interval for interval, _ in side]) for side in (expected, found)]
    is_same_domain = same_intervals(domains[0], domains[1], scalars.same)
    if is_same_domain is not Same.YES:
        # A formula says nothing of where it holds.
        return Same.UNKNOWN if isinstance(gold, EXPRESSIONS) or isinstance(answer, EXPRESSIONS) else is_same_domain
    return every(
        _same_on(part, left, right, name, scalars)
        for (one, left) in expected
        for (other, right) in found
        for part in intersection([one], [other])
    )


def _variable(gold: Value, answer: Value) -> Sym:
    """The one variable of all conditions. Raises NotASetError."""
    branches = [branch for side in (gold, answer) if isinstance(side, Piecewise) for branch in side.branches]
    names = {name for branch in branches if branch.condition is not None for name in symbols(branch.condition)}
    if len(names) != 1:
        raise NotASetError("conditions on several variables")
    return Sym(names.pop())


def _pieces(value: Value) -> list[Piece]:
    """Intervals with the expression that holds there. Raises NotASetError."""
    if isinstance(value, EXPRESSIONS):
        return [(EVERYTHING, value)]
    if not isinstance(value, Piecewise):
        raise NotASetError("no function")
    found: list[Piece] = []
    for branch in value.branches:
        if not isinstance(branch.value, EXPRESSIONS):
            raise NotASetError("the value of a case is no expression")
        rest = complement(merged([interval for interval, _ in found]))
        parts = rest if branch.condition is None else intersection(_where(branch.condition), rest)
        found += [(part, branch.value) for part in parts]
    return found


def _where(condition: Value) -> list[Interval]:
    if isinstance(condition, Relation) and condition.operators == ("=",) and isinstance(condition.sides[0], Sym):
        return real_set(SetOf(condition.sides[1:]))
    if not isinstance(condition, Items):
        return real_set(condition)
    parts = [_where(item) for item in condition.items]
    if condition.joiner == "or":
        return merged([interval for part in parts for interval in part])
    found = [EVERYTHING]
    for part in parts:
        found = intersection(found, part)
    return found


def _same_on(part: Interval, left: Expr, right: Expr, name: Sym, scalars: Scalars) -> Same:
    if part.low.place == part.high.place:
        return scalars.same(replaced(left, name, part.low.written), replaced(right, name, part.low.written))
    whole = scalars.same(left, right)
    if whole is Same.YES:
        return whole
    return every(_same_between(piece, left, right, name, scalars) for piece in _split(part, _kinks(left, name) | _kinks(right, name)))


def _same_between(part: Interval, left: Expr, right: Expr, name: Sym, scalars: Scalars) -> Same:
    """Equality on an open interval without kinks, where each absolute value has one sign."""
    places = list(_inside(part))
    resolved = scalars.same(_without_bars(left, name, places[0]), _without_bars(right, name, places[0]))
    if resolved is not Same.NO:
        return resolved
    evidence = [probe.compare(replaced(left, name, Num(place)), replaced(right, name, Num(place))) for place in places]
    return Same.NO if probe.Evidence.DIFFERENT in evidence else Same.UNKNOWN


def _kinks(tree: Expr, name: Sym) -> frozenset[Fraction]:
    """Where what stands between bars changes its sign, if it is linear."""
    found: set[Fraction] = set()
    for part in walk(tree):
        if isinstance(part, Call) and part.name == "abs" and (place := _zero(part.args[0], name)) is not None:
            found.add(place)
    return frozenset(found)


def _zero(tree: Expr, name: Sym) -> Fraction | None:
    form, variable = normal(tree), ((f"v:{name.name}", Fraction(1)),)
    if form is None or set(form.lower) != {ONE} or not {variable} <= set(form.upper) <= {variable, ONE}:
        return None
    return -form.upper.get(ONE, Fraction(0)) / form.upper[variable]


def _split(part: Interval, places: frozenset[Fraction]) -> list[Interval]:
    found, rest = list[Interval](), part
    for place in sorted(places):
        if float(rest.low.place) < place < float(rest.high.place):
            end = type(rest.low)(float(place), Num(place))
            found.append(Interval(rest.low, end, False, False))
            rest = Interval(end, rest.high, False, False)
    return [*found, rest]


def _inside(part: Interval) -> Iterator[Fraction]:
    """Places inside an interval."""
    low, high = float(part.low.place), float(part.high.place)
    start, stop = max(low, min(high, 10**6) - 7.3), min(high, max(low, -(10**6)) + 7.3)
    start, stop = (start, stop) if start < stop else (max(low, -7.3), min(high, 7.3))
    for share in range(1, _SAMPLES + 1):
        yield Fraction(start + (stop - start) * share / (_SAMPLES + 1.7)).limit_denominator(10**6)


def _without_bars(tree: Expr, name: Sym, place: Fraction) -> Expr:
    def change(part: Expr) -> Expr:
        if not (isinstance(part, Call) and part.name == "abs") or symbols(part) != {name.name}:
            return part
        value = probe.number(replaced(part.args[0], name, Num(place)))
        if value is None or abs(value.imag) != 0 or value == 0:
            return part
        return part.args[0] if value.real > 0 else negative(part.args[0])

    return mapped(tree, change)
