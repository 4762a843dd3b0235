"""What conditions beside an answer make of it: families over the whole numbers, and numbers that a variable is not."""

import re
from fractions import Fraction

from oprime_verifier.math.read.units import DEGREES
from oprime_verifier.math.tree.values import EXPRESSIONS, PI, Family, Items, Mul, NamedSet, Num, Quantity, Relation, Sym, Value

MAX_CHARS = 400
"""Longer answers are no condition in words."""

_IN_BRACKETS = re.compile(
    r"[\s,;]*\(\s*([a-zA-Z])\s*\\in\s*(\\math(?:bb|bf)\s*\{?\s*[ZNR]\s*\}?(?:\s*\^\s*\{?[+*]\}?|\s*_\s*\{?[+>0]+\}?)?|[ZN])\s*\)\s*$"
)
_UPRIGHT = re.compile(r"\\(?:text|textrm|mathrm|mbox)\s*\{([^{}]*)\}")
_IS_INTEGER = re.compile(
    r"(?P<body>.+?)[\s,;(]+(?:where|for|with|and)?\s*(?:all|any|every|some|each)?\s*(?P<name>[a-zA-Z])\s+"
    r"(?:(?:is|are|being|an|any|arbitrary|all|some)\s+)+integers?\)?",
    re.DOTALL,
)
_FOR_INTEGER = re.compile(
    r"(?P<body>.+?)[\s,;(]+(?:where|for|with)\s+(?:(?:all|any|every|some|each|an)\s+)?integers?\s+(?P<name>[a-zA-Z])\)?", re.DOTALL
)
_EXCEPT = re.compile(
    r"(?:all\s+)?(?:real\s+numbers|reals|\\mathbb\s*\{?R\}?)\s*,?\s*(?:except|but|excluding|other\s+than)\s+(?:for\s+)?"
    r"(?:[a-zA-Z]\s*=\s*)?(?P<places>[^a-zA-Z]*\d.*)",
    re.IGNORECASE | re.DOTALL,
)
_WHOLE_NUMBERS = ("Z", "N")


def with_parameter(cleaned: str) -> str:
    """The text with a condition in words or brackets as the last item of a list: `2k, k \\in Z` for `2k (k \\in Z)`."""
    if len(cleaned) > MAX_CHARS:
        return cleaned
    if "\\in" in cleaned:
        return _IN_BRACKETS.sub(r", \1 \\in \2", cleaned)
    if "integer" in cleaned:
        plain = " ".join(_UPRIGHT.sub(r" \1 ", cleaned).split())
        found = _IS_INTEGER.fullmatch(plain) or _FOR_INTEGER.fullmatch(plain)
        return f"{found['body']}, {found['name']} \\in \\mathbb{{Z}}" if found else cleaned
    if "real" in cleaned or "Real" in cleaned:
        plain = " ".join(_UPRIGHT.sub(r" \1 ", cleaned).split())
        found = _EXCEPT.fullmatch(plain)
        return f"\\mathbb{{R}} \\setminus \\{{{found['places'].replace(' and ', ', ')}\\}}" if found else cleaned
    return cleaned


def with_conditions(value: Value) -> Value:
    """A list whose last item says that a variable is whole as a family; x \\ne 1, 3 as two conditions."""
    if isinstance(value, Items) and len(value.items) > 1:
        return _family(value) or _exclusion(value) or value
    return value


def _family(value: Items) -> Family | None:
    *values, last = value.items
    if not (isinstance(last, Relation) and last.operators == ("in",) and isinstance(last.sides[1], NamedSet)):
        return None
    name, domain = last.sides[0], last.sides[1].name
    if not isinstance(name, Sym) or domain[:1] not in _WHOLE_NUMBERS or not all(map(_is_member, values)):
        return None
    return Family(tuple(map(_in_radians, values)), name.name, domain)


def _is_member(value: Value) -> bool:
    if isinstance(value, Relation):
        return set(value.operators) == {"="} and _is_member(value.sides[-1])
    return isinstance(value, EXPRESSIONS) or (isinstance(value, Quantity) and value.unit.dimension == DEGREES)


def _in_radians(value: Value) -> Value:
    if isinstance(value, Relation):
        return Relation(tuple(map(_in_radians, value.sides)), value.operators)
    return Mul((value.value, PI, Num(Fraction(1, 180)))) if isinstance(value, Quantity) else value


def _exclusion(value: Items) -> Items | None:
    """`x \\ne 1, 3`, and `x \\in R, x \\ne 1`: all of it holds."""
    if value.joiner == "or":
        return None
    conditions = list[Value]()
    for item in value.items:
        if isinstance(item, Relation) and item.operators in (("!=",), ("in",)):
            conditions.append(item)
        elif (
            isinstance(item, EXPRESSIONS) and conditions and isinstance(before := conditions[-1], Relation) and before.operators == ("!=",)
        ):
            conditions.append(Relation((before.sides[0], item), ("!=",)))
        else:
            return None
    relations = [condition for condition in conditions if isinstance(condition, Relation)]
    is_one_variable = len({relation.sides[0] for relation in relations}) == 1
    return Items(tuple(conditions), "and") if is_one_variable and any(relation.operators == ("!=",) for relation in relations) else None
