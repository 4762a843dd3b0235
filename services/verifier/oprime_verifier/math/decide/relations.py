"""Equations and inequalities: what they name, what they say, and when two of them say the same."""

from fractions import Fraction
from itertools import pairwise

from oprime_verifier.math.decide import probe
from oprime_verifier.math.decide.normal import constant_ratio, normal
from oprime_verifier.math.decide.scalar import Scalars
from oprime_verifier.math.decide.verdicts import Same, either, every
from oprime_verifier.math.tree.values import (
    EXPRESSIONS,
    IMAGINARY,
    MINUS_ONE,
    Add,
    Bracketed,
    Call,
    Expr,
    Mul,
    Num,
    Pow,
    Quantity,
    Ratio,
    Relation,
    Sym,
    TooLargeError,
    Value,
    free_symbols,
    negative,
    symbols,
)

_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!=", "~": "~", "in": "in"}


def is_name(value: Value) -> bool:
    """Whether it only names something: x, AB, f(x), P(A), S_10 or a point (x, y)."""
    if isinstance(value, Sym) or value == IMAGINARY:
        return True
    if isinstance(value, Call):
        return (value.name.startswith("@") and value.name != "@residue") or (value.name == "abs" and _is_length(value.args[0]))
    if isinstance(value, Mul):
        return all((isinstance(part, Sym | Mul) and is_name(part)) or part == IMAGINARY or _is_inverse_name(part) for part in value.factors)
    if isinstance(value, Ratio):
        return all(map(is_name, value.parts))
    return isinstance(value, Bracketed) and all(isinstance(item, Sym) for item in value.items)


def _is_inverse_name(value: Value) -> bool:
    return isinstance(value, Pow) and value.exponent == MINUS_ONE and is_name(value.base)


def _is_length(value: Value) -> bool:
    """AB in |AB|: two points, where |x| would be a condition on x."""
    return isinstance(value, Mul) and all(isinstance(part, Sym) and part.name[0].isupper() for part in value.factors)


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
    if not symbols(gold) or symbols(gold) != symbols(answer):
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


ZERO = Num(Fraction(0))
