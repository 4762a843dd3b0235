"""What an equation only names: x, f(x), P(A), |AB|, y', dy/dx; and when two names are one."""

from dataclasses import dataclass

from oprime_verifier.math.read import words
from oprime_verifier.math.tree.values import (
    IMAGINARY,
    MINUS_ONE,
    Add,
    Bracketed,
    Call,
    Mul,
    Num,
    Pow,
    Ratio,
    Sym,
    Value,
)

_FREE_NAMES = frozenset({"f", "g", "h"})
"""Functions that y may stand for."""
_COORDINATES = frozenset("xyzt")
"""A sum of these is the side of an equation, where m + n is the name of an answer."""


@dataclass(frozen=True, slots=True)
class Label:
    kind: str
    """name, function, letters (of points, side by side) or value."""
    name: str
    order: int = 0
    """How often it is derived."""
    of: Value | None = None
    """The variable of a function or derivative where it is named, or the whole of what is no plain name."""


def is_name(value: Value) -> bool:
    """Whether it only names something: x, AB, f(x), P(A), S_10, m + n or a point (x, y)."""
    if isinstance(value, Sym) or value == IMAGINARY:
        return True
    if isinstance(value, Call):
        return (value.name.startswith("@") and value.name != "@residue") or (value.name == "abs" and _is_length(value.args[0]))
    if isinstance(value, Mul):
        return _derived(value) is not None or all(
            (isinstance(part, Sym | Mul) and is_name(part)) or part == IMAGINARY or _is_inverse_name(part) for part in value.factors
        )
    if isinstance(value, Ratio):
        return all(map(is_name, value.parts))
    return is_sum_of_names(value) or (isinstance(value, Bracketed) and all(isinstance(item, Sym) for item in value.items))


def is_sum_of_names(value: Value) -> bool:
    """Whether it is m + n or p - q, whose value many problems ask for."""
    if not isinstance(value, Add):
        return False
    names = [term if isinstance(term, Sym) else _negated_name(term) for term in value.terms]
    return all(name is not None and name.name not in _COORDINATES for name in names)


def _negated_name(value: Value) -> Sym | None:
    if isinstance(value, Mul) and value.factors[0] == MINUS_ONE and len(value.factors) == 2 and isinstance(value.factors[1], Sym):
        return value.factors[1]
    return None


def _is_inverse_name(value: Value) -> bool:
    return isinstance(value, Pow) and value.exponent == MINUS_ONE and is_name(value.base)


def _is_length(value: Value) -> bool:
    """AB in |AB|: two points, where |x| would be a condition on x."""
    return isinstance(value, Mul) and all(isinstance(part, Sym) and part.name[0].isupper() for part in value.factors)


def label(name: Value) -> Label:
    """What a name names, in one form: |AB| and AB are one, and so are y', y'(x) and dy/dx."""
    if isinstance(name, Sym):
        stem = name.name.removeprefix("overline ")
        if stem != name.name:
            return Label("letters", stem.strip("{}"))
        return Label("name", stem.rstrip("'"), stem.count("'"))
    if isinstance(name, Call):
        return _of_call(name)
    if isinstance(name, Mul) and (derived := _derived(name)) is not None:
        return derived
    if isinstance(name, Mul) and _is_length(name):
        return Label("letters", "".join(part.name for part in name.factors if isinstance(part, Sym)))
    return Label("value", "", of=name)


def _of_call(name: Call) -> Label:
    if name.name == "abs":
        return label(name.args[0])
    if name.name == "@derivative":
        return _of_derivative(name) or Label("value", "", of=name)
    if len(name.args) != 1 or not isinstance(name.args[0], Sym) or not _is_variable(name.args[0].name):
        return Label("value", "", of=name)
    stem = name.name[1:]
    return Label("function", stem.rstrip("'"), stem.count("'"), name.args[0])


def _is_variable(name: str) -> bool:
    """Whether the argument could have any other letter: x, but not the event A."""
    return name in words.GREEK or (len(name) == 1 and name.islower())


def _derived(name: Mul) -> Label | None:
    """d/dx f(x) and d/dx y, once derived."""
    if len(name.factors) != 2 or not isinstance(first := name.factors[0], Call) or first.name != "@derivative":
        return None
    upper, lower = first.args
    function = label(name.factors[1])
    if upper != Sym("d") or not isinstance(lower, Mul) or not isinstance(variable := lower.factors[-1], Sym):
        return None
    return Label("function", function.name, function.order + 1, variable) if function.kind in ("name", "function") else None


def _of_derivative(name: Call) -> Label | None:
    """dy/dx, d^2y/dx^2 and d/dx f(x) where they name a function and a variable."""
    upper, lower = name.args
    if not isinstance(lower, Mul) or len(lower.factors) != 2:
        return None
    variable = lower.factors[1].base if isinstance(lower.factors[1], Pow) else lower.factors[1]
    if not isinstance(upper, Mul) or len(upper.factors) != 2 or not isinstance(variable, Sym):
        return None
    first, function = upper.factors
    order = first.exponent if isinstance(first, Pow) else Num(-MINUS_ONE.value)
    stem = function.name if isinstance(function, Sym) else function.name[1:] if isinstance(function, Call) else ""
    if not stem or not isinstance(order, Num) or order.value.denominator != 1:
        return None
    return Label("function", stem, int(order.value), variable)


def is_one_name(one: Label, other: Label) -> bool:
    """Whether two names stand for one thing: f(x), f(n), f and y, say, but not f(x) and g(x)."""
    if one == other:
        return True
    if {one.kind, other.kind} <= {"name", "function"} and one.order == other.order:
        if one.name == other.name:
            return one.kind != other.kind or (one.kind == "function" and one.order == 0)
        return "y" in (one.name, other.name) and bool(_FREE_NAMES & {one.name, other.name})
    return False


def are_other_letters(one: Label, other: Label) -> bool:
    """Whether two names have one set of letters in two orders: MR and RM are no product."""
    return one.kind == other.kind == "letters" and one.name != other.name and sorted(one.name) == sorted(other.name)
