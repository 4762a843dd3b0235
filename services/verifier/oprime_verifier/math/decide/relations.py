"""Equations and inequalities: what they name, what they say, and when two of them say the same."""

from itertools import pairwise

from oprime_verifier.math.decide import probe
from oprime_verifier.math.decide.labels import is_name, is_sum_of_names
from oprime_verifier.math.decide.normal import constant_ratio, normal
from oprime_verifier.math.decide.scalar import Scalars
from oprime_verifier.math.decide.verdicts import Same, either, every
from oprime_verifier.math.tree.values import (
    EXPRESSIONS,
    Add,
    Call,
    Expr,
    Num,
    Quantity,
    Relation,
    Sym,
    TooLargeError,
    Value,
    free_symbols,
    negative,
    symbols,
    walk,
)

_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!=", "~": "~", "in": "in"}


def split_name(relation: Relation) -> tuple[Value | None, tuple[Value, ...], tuple[str, ...]]:
    """The name that a chain of equalities gives, the values it gives it, and the signs between those."""
    if not set(relation.operators) <= {"=", "~", "in"}:
        return None, relation.sides, relation.operators
    if is_name(relation.sides[0]):
        return relation.sides[0], relation.sides[1:], relation.operators[1:]
    if relation.operators == ("=",) and isinstance(relation.sides[1], Sym) and not symbols(relation.sides[0]):
        return relation.sides[1], relation.sides[:1], ()
    return None, relation.sides, relation.operators


def named_value(relation: Relation, scalars: Scalars) -> tuple[Value, ...]:
    """Values that the relation claims to be the answer, all of them equal; empty for one that claims none, or a false one."""
    name, values, operators = split_name(relation)
    if not set(relation.operators) <= {"=", "~", "in"}:
        return ()
    if name is None and relation.operators[0] == "=" and (free_symbols(relation) or len(set(relation.sides)) == 1):
        return ()
    if name is not None and is_sum_of_names(name) and any(symbols(value) for value in values):
        return ()
    if name is not None and symbols(name) and any(symbols(name) & symbols(value) for value in values if is_plain_name(name)):
        return ()
    pairs = zip(pairwise(values), operators, strict=True)
    return values if all(_holds(left, operator, right, scalars) for (left, right), operator in pairs) else ()


def is_plain_name(name: Value) -> bool:
    return isinstance(name, Sym)


def _holds(left: Value, operator: str, right: Value, scalars: Scalars) -> bool:
    if isinstance(left, Quantity) or isinstance(right, Quantity):
        left = left.value if isinstance(left, Quantity) else left
        right = right.value if isinstance(right, Quantity) else right
    if not (isinstance(left, EXPRESSIONS) and isinstance(right, EXPRESSIONS)):
        return left == right
    if operator == "=":
        is_decimal = isinstance(right, Num) and right.digits
        return scalars.same(left, right) is Same.YES or (bool(is_decimal) and _rounds_to(left, right))
    return _rounds_to(left, right)


def _rounds_to(exact: Expr, rounded: Expr) -> bool:
    """Whether a decimal is the value to the digits it shows, give or take one of the last."""
    value, shown = probe.number(exact), probe.exact_or_none(rounded)
    if value is None or shown is None or abs(value.imag) != 0:
        return False
    places = next((places for places in range(16) if 10**places % shown.denominator == 0), 16)
    return bool(abs(value.real * shown.denominator - shown.numerator) * 10**places <= shown.denominator)


def same_relations(gold: Relation, answer: Relation, scalars: Scalars) -> Same:
    """Whether two chains say the same, link by link, in either direction."""
    if len(gold.operators) != len(answer.operators):
        return Same.NO
    forward = every(_same_link(*pair, scalars) for pair in zip(_links(gold), _links(answer), strict=True))
    if forward is Same.YES or len(gold.operators) == 1:
        return forward
    backward = every(_same_link(*pair, scalars) for pair in zip(_links(gold), reversed(_links(answer)), strict=True))
    return either((forward, backward))


Link = tuple[Value, str, Value]


def _links(relation: Relation) -> list[Link]:
    return list(zip(relation.sides, relation.operators, relation.sides[1:], strict=False))


def _same_link(gold: Link, answer: Link, scalars: Scalars) -> Same:
    (left, sign, right), (one, other_sign, other) = _upward(gold), _upward(answer)
    if sign != other_sign:
        return Same.NO
    if not all(isinstance(side, EXPRESSIONS) for side in (left, right, one, other)):
        return Same.YES if (left, right) == (one, other) else Same.NO
    return _same_difference(Add((left, negative(right))), Add((one, negative(other))), sign, scalars)  # pyright: ignore[reportArgumentType]


def _upward(link: Link) -> Link:
    left, sign, right = link
    return (right, _FLIPPED[sign], left) if sign in (">", ">=") else link


def _same_difference(gold: Expr, answer: Expr, sign: str, scalars: Scalars) -> Same:
    """f = 0 and c f = 0 are one equation for a number c; f < 0 and c f < 0 for a positive one."""
    if not _names(gold) or _names(gold) != _names(answer):
        return Same.NO
    expected, found = normal(gold), normal(answer)
    if expected is not None and found is not None:
        try:
            ratio = constant_ratio(found, expected)
        except TooLargeError:
            ratio = None
        if ratio is not None:
            return Same.YES if ratio > 0 or (ratio < 0 and sign in ("=", "!=")) else Same.NO
    trials = [scalars.same(gold, answer)]
    if sign in ("=", "!="):
        trials.append(scalars.same(gold, negative(answer)))
    return either(trials)


def _names(tree: Expr) -> frozenset[str]:
    """Variables, and functions of which nothing is known."""
    return symbols(tree) | {part.name for part in walk(tree) if isinstance(part, Call) and part.name[:1] == "@"}
