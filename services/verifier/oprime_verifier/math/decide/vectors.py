"""Vectors by their directions: 2i - 3j as the point (2, -3)."""

from fractions import Fraction

from oprime_verifier.math.decide.normal import ONE, normal
from oprime_verifier.math.tree.build import replaced
from oprime_verifier.math.tree.values import EXPRESSIONS, IMAGINARY, ZERO, Bracketed, Expr, Matrix, Num, Sym, Value, symbols, walk

_DIRECTIONS = tuple(Sym(f"vec {letter}") for letter in "ijk")
_PLAIN = (IMAGINARY, Sym("j"), Sym("k"))
_NAMES = frozenset(direction.name for direction in _DIRECTIONS)

Components = tuple[Value, ...]


def in_components(gold: Value, answer: Value) -> tuple[Components, Components] | None:
    """Both sides by their components where one is a sum of directions and the other one a point; None where they are not."""
    for value, other, is_gold in ((gold, answer, True), (answer, gold, False)):
        point = _point(other)
        if point is None or not isinstance(value, EXPRESSIONS) or not (_named(value) or _is_plain_vector(value)):
            continue
        found = _components(value, len(point))
        return None if found is None else (found, point) if is_gold else (point, found)
    return None


def in_one_font(gold: Value, answer: Value) -> tuple[Expr, Expr] | None:
    """Both sides in italics where directions are bold on one of them: 3 + 4i in bold is a complex number where the other side is."""
    if not isinstance(gold, EXPRESSIONS) or not isinstance(answer, EXPRESSIONS) or _named(gold) == _named(answer):
        return None
    plain = answer if _named(gold) else gold
    return (_in_italics(gold), _in_italics(answer)) if any(part in walk(plain) for part in _PLAIN) else None


def _named(value: Expr) -> bool:
    return not isinstance(value, Num | Sym) and not _NAMES.isdisjoint(symbols(value))


def _is_plain_vector(value: Expr) -> bool:
    """2i - 3j in italics, which is no complex number."""
    parts = set(walk(value))
    return IMAGINARY in parts and Sym("j") in parts


def _point(value: Value) -> Components | None:
    if isinstance(value, Bracketed) and len(value.items) in (2, 3) and value.opening in "(<" and value.closing in ")>":
        return value.items
    if isinstance(value, Matrix) and (len(value.rows[0]) == 1 or len(value.rows) == 1):
        entries = tuple(entry for row in value.rows for entry in row)
        return entries if len(entries) in (2, 3) else None
    return None


def _components(value: Expr, size: int) -> Components | None:
    """The factors of the directions; None where the value is no sum of them."""
    for plain, direction in zip(_PLAIN, _DIRECTIONS, strict=True):
        value = replaced(value, plain, direction) if _is_plain_vector(value) or plain != IMAGINARY else value
    form = normal(value)
    names = {f"v:{direction.name}" for direction in _DIRECTIONS[:size]}
    if form is None or set(form.lower) != {ONE} or any(f"v:{one.name}" in str(form) for one in _DIRECTIONS[size:]):
        return None
    if any(sum(power for atom, power in monomial if atom in names) != 1 for monomial in form.upper):
        return None
    parts: list[Expr] = []
    for direction in _DIRECTIONS[:size]:
        part = value
        for other in _DIRECTIONS:
            part = replaced(part, other, Num(Fraction(1)) if other == direction else ZERO)
        parts.append(part)
    return tuple(parts)


def _in_italics(value: Expr) -> Expr:
    for letter, direction in zip(_PLAIN, _DIRECTIONS, strict=True):
        value = replaced(value, direction, letter)
    return value
