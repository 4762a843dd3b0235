"""What stands behind a factor: powers, factorials, primes, percent, degree and currency signs."""

from typing import TYPE_CHECKING

from oprime_verifier.math.read import quantities
from oprime_verifier.math.tree import build
from oprime_verifier.math.tree.values import EXPRESSIONS, Sym, TooLargeError, UnreadableError, Value

if TYPE_CHECKING:
    from oprime_verifier.math.read.parser import Parser

MAX_POWERS = 16
"""Exponents of one base, one behind the other."""


def with_postfixes(parser: "Parser", value: Value) -> Value:
    while True:
        if parser.accept("mark", "^"):
            value = _raised(parser, value)
        elif parser.accept("mark", "!"):
            value = build.call(_factorial(parser), (value,))
        elif isinstance(value, Sym) and parser.peek().text == "'":
            parser.take()
            value = Sym(value.name + "'")
        elif isinstance(value, EXPRESSIONS) and (found := quantities.signed_quantity(parser, value)) is not None:
            value = found
        else:
            return value


def _raised(parser: "Parser", value: Value) -> Value:
    if quantities.accept_degree_sign(parser):
        return quantities.angle(parser, value)
    exponent = _exponent(parser)
    if exponent == Sym("prime") and isinstance(value, Sym):
        return Sym(value.name + "'")
    return build.power(value, exponent)


def _exponent(parser: "Parser") -> Value:
    """2^3^2 is two to the ninth: the powers of an exponent come first."""
    signed = parser.is_next("mark", "-", "+")
    found = [parser.argument()]
    signs = quantities.DEGREE_SIGNS
    while parser.is_next("mark", "^") and parser.peek(1).text not in signs and parser.peek(2).text not in signs:
        if len(found) >= MAX_POWERS:
            raise TooLargeError(f"a power has more than {MAX_POWERS} exponents")
        if signed:
            raise UnreadableError("a power of a signed exponent needs braces")
        parser.take()
        found.append(parser.argument())
    exponent = found.pop()
    while found:
        exponent = build.power(found.pop(), exponent)
    return exponent


def _factorial(parser: "Parser") -> str:
    """n!! is the double factorial, which leaves out every other factor; (n!)! is written with brackets."""
    if parser.peek().spaced or not parser.accept("mark", "!"):
        return "factorial"
    if parser.is_next("mark", "!"):
        raise UnreadableError("three factorial signs in a row")
    return "factorial2"
