"""What stands between brackets, bars and braces, or in a matrix."""

from typing import TYPE_CHECKING

from oprime_verifier.math.read import quantities
from oprime_verifier.math.read.tokens import Token
from oprime_verifier.math.tree import build
from oprime_verifier.math.tree.values import (
    EXPRESSIONS,
    Bracketed,
    Items,
    NamedSet,
    Num,
    Relation,
    SetOf,
    Sym,
    UnreadableError,
    Value,
)

if TYPE_CHECKING:
    from oprime_verifier.math.read.parser import Parser

_CLOSING = {"(": (")", "]"), "[": ("]", ")")}
_BARS = ("|", "vert", "lvert", "rvert", "Vert", "lVert", "rVert")
_OPENING_BARS = ("|", "vert", "lvert")


def mark(parser: "Parser", token: Token) -> Value:
    """The factor that begins with a mark."""
    if token.text in _CLOSING:
        return closed(parser, token.text)
    if token.text == "{":
        return _factor_in_braces(parser)
    if token.text in _OPENING_BARS:
        return absolute(parser)
    if token.text in quantities.MONEY_SIGNS:
        return quantities.money(parser, token.text)
    raise UnreadableError(f"{token.text!r} is not expected there")


def closed(parser: "Parser", opening: str) -> Value:
    """What follows an opening bracket, with the closing one."""
    bars, in_set = parser.bars, parser.in_set
    parser.bars, parser.in_set = 0, False
    inner = parser.items()
    closing = parser.expect("mark", *_CLOSING[opening]).text
    parser.bars, parser.in_set = bars, in_set
    items = inner.items if isinstance(inner, Items) and inner.joiner == "," else (inner,)
    return build.point(items, opening, closing)


def braces(parser: "Parser") -> Value:
    parser.expect("mark", "{")
    value = parser.items()
    parser.expect("mark", "}")
    return value


def _factor_in_braces(parser: "Parser") -> Value:
    """Braces around a factor. Digits beside such a group show as one number, and are no product."""
    parser.place -= 1
    before = parser.tokens[parser.place - 1] if parser.place else parser.peek()
    value = braces(parser)
    if isinstance(value, Num) and "number" in (before.kind, parser.peek().kind):
        raise UnreadableError("digits stand inside and outside of braces")
    return value


def absolute(parser: "Parser") -> Value:
    parser.bars += 1
    inner = parser.sum()
    parser.bars -= 1
    if parser.take().text not in _BARS:
        raise UnreadableError("a bar is not closed")
    return build.call("abs", (inner,))


def rounded(parser: "Parser", function: str, closing: str) -> Value:
    """The floor or ceiling of what stands before the closing name."""
    inner = parser.sum()
    parser.expect("name", closing)
    return build.call(function, (inner,))


def angled(parser: "Parser") -> Value:
    inner = parser.items()
    parser.expect("name", "rangle")
    return Bracketed(inner.items if isinstance(inner, Items) else (inner,), "<", ">")


# Sets


def set_of(parser: "Parser") -> Value:
    if parser.accept("name", "}", "rbrace"):
        return NamedSet("empty")
    outer, parser.in_set = parser.in_set, True
    inner = parser.items()
    parser.in_set = outer
    if parser.peek().text in ("|", ":", "mid", "vert", "colon"):
        parser.take()
        condition = parser.items()
        parser.expect("name", "}", "rbrace")
        return _such_that(inner, condition)
    parser.expect("name", "}", "rbrace")
    return SetOf(inner.items if isinstance(inner, Items) else (inner,))


def _such_that(inner: Value, condition: Value) -> Value:
    """{x | x > 2} and {x in R : x > 2} are their condition; {2k | k in Z} is a list with one."""
    if (
        isinstance(condition, Relation)
        and condition.operators == ("in",)
        and isinstance(inner, EXPRESSIONS)
        and inner != condition.sides[0]
    ):
        return Items((inner, condition))
    if isinstance(inner, Relation) and inner.operators == ("in",) and inner.sides[1] == NamedSet("R"):
        inner = inner.sides[0]
    if isinstance(inner, Sym) and isinstance(condition, Relation | Items):
        return condition
    raise UnreadableError("this set is described in words that are not read")
