"""Sums and products over an index, definite integrals and limits.

Integrals and limits are read into the tree here; their values are found by the symbolic process alone.
"""

from typing import TYPE_CHECKING

from oprime_verifier.math.read import words
from oprime_verifier.math.read.functions import scripts
from oprime_verifier.math.read.tokens import Token
from oprime_verifier.math.tree import build, exact
from oprime_verifier.math.tree.values import EULER, EXPRESSIONS, IMAGINARY, Call, Relation, Sym, UnreadableError, Value, integer

if TYPE_CHECKING:
    from oprime_verifier.math.read.parser import Parser

_ARROWS = ("to", "rightarrow", "->")
_SIDES = {("^", "+"): 1, ("^", "-"): -1, ("^", "{", "+", "}"): 1, ("^", "{", "-", "}"): -1}
_PRODUCT_SIGNS = ("cdot", "times", "*", "/")


def over_an_index(parser: "Parser", name: str) -> Value:
    """A `sum` or `prod` from one value of its index to another."""
    lower, upper = scripts(parser)
    if not (isinstance(lower, Relation) and lower.operators == ("=",) and isinstance(lower.sides[0], Sym | type(IMAGINARY)) and upper):
        raise UnreadableError(f"\\{name} needs an index from one value to another")
    body = _body(parser)
    index = lower.sides[0] if isinstance(lower.sides[0], Sym) else Sym("i")
    if index.name == "i" and isinstance(body, EXPRESSIONS):
        body = build.replaced(body, IMAGINARY, index)
    return exact.summed(Call(name, build.numbers(name, (body, index, lower.sides[1], upper))), parser.budget)


def _body(parser: "Parser") -> Value:
    value = parser.factor()
    while parser.starts_factor() or parser.peek().text in _PRODUCT_SIGNS:
        operator = parser.take().text if parser.peek().text in _PRODUCT_SIGNS else "*"
        value = build.fraction(value, parser.factor()) if operator == "/" else build.multiply(value, parser.factor())
    return value


def integral(parser: "Parser") -> Value:
    # Without braces a bound is one token, so that a number may follow: the 2 of \int_0^1 2x dx is no part of the bound.
    lower, upper = scripts(parser, by_token=True)
    if lower is None or upper is None:
        raise UnreadableError("an integral without bounds is no single value")
    stop = _differential(parser)
    body = integer(1) if parser.place == stop else _sum_until(parser, stop)
    parser.place = stop + 1
    return build.call("int", (body, _variable(parser), lower, upper))


def _differential(parser: "Parser") -> int:
    """Place of the d that belongs to this integral and not to one inside it."""
    depth = inner = 0
    for place in range(parser.place, len(parser.tokens) - 1):
        token = parser.tokens[place]
        depth += (token.text in ("(", "[", "{")) - (token.text in (")", "]", "}"))
        if depth < 0:
            break
        if depth == 0 and token.kind == "name" and token.text == "int":
            inner += 1
        elif depth == 0 and token.kind == "letter" and token.text == "d" and _is_variable(parser.tokens[place + 1]):
            if inner == 0:
                return place
            inner -= 1
    raise UnreadableError("an integral needs its dx")


def _variable(parser: "Parser") -> Sym:
    token = parser.take()
    if not _is_variable(token):
        raise UnreadableError(f"{token.text!r} is no variable of an integral or limit")
    return Sym(token.text)


def _is_variable(token: Token) -> bool:
    if token.kind == "letter":
        return token.text not in (EULER.name, IMAGINARY.name)
    return token.kind == "name" and token.text in words.GREEK and token.text != "pi"


def _sum_until(parser: "Parser", stop: int) -> Value:
    """A sum that ends at a place."""
    tokens, parser.tokens = parser.tokens, parser.tokens[:stop]
    value = parser.sum()
    if not parser.at_end():
        raise UnreadableError(f"{parser.peek().text!r} is not expected there")
    parser.tokens = tokens
    return value


def limit(parser: "Parser") -> Value:
    parser.expect("mark", "_")
    parser.expect("mark", "{")
    variable = _variable(parser)
    if parser.take().text not in _ARROWS:
        raise UnreadableError("a limit goes to a value")
    closing = _closing_brace(parser)
    side, length = _side(parser, closing)
    target = _sum_until(parser, closing - length)
    parser.place = closing + 1
    return build.call("lim", (_body(parser), variable, target, integer(side)))


def _closing_brace(parser: "Parser") -> int:
    depth = 0
    for place in range(parser.place, len(parser.tokens)):
        depth += (parser.tokens[place].text == "{") - (parser.tokens[place].text == "}")
        if depth < 0:
            return place
    raise UnreadableError("a brace is not closed")


def _side(parser: "Parser", closing: int) -> tuple[int, int]:
    """From where the variable comes, 0 for both sides, and how many tokens say so."""
    for texts, side in _SIDES.items():
        if tuple(token.text for token in parser.tokens[closing - len(texts) : closing]) == texts:
            return side, len(texts)
    return 0, 0
