"""What an answer is once it has been read: exact numbers, expressions over them, and the compounds that answers are made of.

Plain immutable records. Nothing in here is evaluated by being built.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from fractions import Fraction
from functools import cache


class UnreadableError(ValueError):
    """The text is not mathematics that the parser knows."""


class TooLargeError(ValueError):
    """Reading or evaluating the text would cost more than any answer is worth."""


@dataclass(frozen=True, slots=True)
class Num:
    value: Fraction
    digits: int = 0
    """Significant digits of a number written with a decimal point; 0 for one that is exact as written."""
    based: str = ""
    """The digits of a number written with a base, such as 1010 in 1010_2."""


@dataclass(frozen=True, slots=True)
class Const:
    name: str
    """pi, e, i, inf or degree."""


@dataclass(frozen=True, slots=True)
class Sym:
    name: str


@dataclass(frozen=True, slots=True)
class Sign:
    """The choice of a plus-minus sign; `flipped` for minus-plus."""

    index: int
    flipped: bool


@dataclass(frozen=True, slots=True)
class Add:
    terms: tuple["Expr", ...]


@dataclass(frozen=True, slots=True)
class Mul:
    factors: tuple["Expr", ...]


@dataclass(frozen=True, slots=True)
class Pow:
    base: "Expr"
    exponent: "Expr"


@dataclass(frozen=True, slots=True)
class Call:
    """A function of known meaning, or of a name only where `name` starts with `@`."""

    name: str
    args: tuple["Expr", ...]


Expr = Num | Const | Sym | Sign | Add | Mul | Pow | Call


@dataclass(frozen=True, slots=True)
class Unit:
    text: str
    """The unit as words, in one spelling."""
    factor: Fraction = Fraction(1)
    """What one of it is in the base units of `dimension`."""
    dimension: tuple[tuple[str, int], ...] | None = None
    """None for words that are no known unit, such as apples."""
    is_known: bool = True
    """Whether the words measure or count; an unknown word may change the number."""


@dataclass(frozen=True, slots=True)
class Quantity:
    value: Expr
    unit: Unit


@dataclass(frozen=True, slots=True)
class Bracketed:
    """Ordered items between brackets: a tuple, a point, or (with two items) perhaps an interval."""

    items: tuple["Value", ...]
    opening: str
    closing: str


@dataclass(frozen=True, slots=True)
class SetOf:
    items: tuple["Value", ...]


@dataclass(frozen=True, slots=True)
class Items:
    """A bare list; `joiner` is a comma, `and` or `or`."""

    items: tuple["Value", ...]
    joiner: str = ","


@dataclass(frozen=True, slots=True)
class NamedSet:
    name: str
    """R, Z, N, Q, C or empty."""


@dataclass(frozen=True, slots=True)
class SetExpr:
    operator: str
    """union, intersection or minus."""
    parts: tuple["Value", ...]


@dataclass(frozen=True, slots=True)
class Matrix:
    rows: tuple[tuple[Expr, ...], ...]


@dataclass(frozen=True, slots=True)
class Relation:
    """A chain: sides[0] operators[0] sides[1] operators[1] ..."""

    sides: tuple["Value", ...]
    operators: tuple[str, ...]
    """Each one of = != < <= > >= ~ in."""


@dataclass(frozen=True, slots=True)
class Ratio:
    parts: tuple[Expr, ...]
    written: str


@dataclass(frozen=True, slots=True)
class Words:
    text: str
    """Lower case, single spaces, no punctuation at the ends."""


@dataclass(frozen=True, slots=True)
class Choice:
    letter: str
    rest: "Value | None" = None
    """What stands beside the letter, as 5 in (A) 5."""


@dataclass(frozen=True, slots=True)
class Family:
    """The values that expressions take for all whole numbers: pi/4 + k pi for k in Z."""

    values: tuple["Value", ...]
    name: str
    domain: str
    """Z, or another set of numbers by its name."""


@dataclass(frozen=True, slots=True)
class Branch:
    value: "Value"
    condition: "Value | None"
    """None where no other condition holds."""


@dataclass(frozen=True, slots=True)
class Piecewise:
    branches: tuple[Branch, ...]


DOTS = Sym("\u2026")
"""`and so on` in a list or a ratio."""

Value = Expr | Quantity | Bracketed | SetOf | Items | NamedSet | SetExpr | Matrix | Relation | Ratio | Words | Choice | Family | Piecewise

ZERO, ONE, MINUS_ONE = Num(Fraction(0)), Num(Fraction(1)), Num(Fraction(-1))
PI, EULER, IMAGINARY, INFINITY, DEGREE = Const("pi"), Const("e"), Const("i"), Const("inf"), Const("degree")
EXPRESSIONS = (Num, Const, Sym, Sign, Add, Mul, Pow, Call)


def integer(value: int) -> Num:
    return Num(Fraction(value))


def negative(value: Expr) -> Expr:
    if isinstance(value, Num):
        return Num(-value.value, value.digits)
    return Mul((MINUS_ONE, value))


@cache
def _parts(kind: type) -> tuple[str, ...]:
    """Fields of a record that may hold records; none for a kind that is no record."""
    if not is_dataclass(kind):
        return ()
    return tuple(entry.name for entry in fields(kind) if entry.type not in (str, int, bool, Fraction))


def children(node: object) -> tuple[object, ...]:
    """Records directly inside a record."""
    found: list[object] = []
    for name in _parts(type(node)):
        value = getattr(node, name)
        if isinstance(value, tuple):
            found += [item for part in value for item in (part if isinstance(part, tuple) else (part,)) if _is_record(item)]
        elif _is_record(value):
            found.append(value)
    return tuple(found)


def _is_record(value: object) -> bool:
    return value is not None and not isinstance(value, (str, int, Fraction))


def walk(node: object) -> Iterator[object]:
    """The record and all records inside it."""
    waiting = [node]
    while waiting:
        current = waiting.pop()
        yield current
        waiting.extend(children(current))


def symbols(node: object) -> frozenset[str]:
    return frozenset(part.name for part in walk(node) if isinstance(part, Sym))


BINDERS = frozenset({"sum", "prod", "int", "lim"})
"""Calls whose second argument is a variable that the first one alone uses."""


def free_symbols(node: object) -> frozenset[str]:
    """Variables but those that sums, products, integrals and limits run over."""
    if isinstance(node, Sym):
        return frozenset({node.name})
    if isinstance(node, Call) and node.name in BINDERS and isinstance(node.args[1], Sym):
        return (free_symbols(node.args[0]) - {node.args[1].name}).union(*map(free_symbols, node.args[2:]))
    return frozenset[str]().union(*map(free_symbols, children(node)))


def is_expression(value: object) -> bool:
    return isinstance(value, EXPRESSIONS)
