"""Functions by name with their arguments."""

from typing import TYPE_CHECKING

from oprime_verifier.math.read import brackets, quantities, words
from oprime_verifier.math.tree import build
from oprime_verifier.math.tree.values import EULER, IMAGINARY, Bracketed, UnreadableError, Value, integer

if TYPE_CHECKING:
    from oprime_verifier.math.read.parser import Parser


def function(parser: "Parser", name: str) -> Value:
    if name == "sqrt":
        return _root(parser)
    canonical = words.FUNCTION_ALIASES.get(name, name)
    base, exponent = scripts(parser)
    if base is not None and canonical != "log":
        raise UnreadableError(f"{canonical} has no subscript")
    args = _arguments(parser)
    if exponent == integer(-1) and canonical in words.INVERSES:
        return build.call(words.INVERSES[canonical], args)
    value = _applied(canonical, args, base)
    return value if exponent is None else build.power(value, exponent)


def _root(parser: "Parser") -> Value:
    index: Value = integer(2)
    if parser.accept("mark", "["):
        index = parser.sum()
        parser.expect("mark", "]")
    return build.call("root", (parser.argument(), index))


def scripts(parser: "Parser", *, by_token: bool = False) -> tuple[Value | None, Value | None]:
    """Subscript and exponent behind a name; `by_token` takes one digit of a number without braces."""
    argument = parser.token_argument if by_token else parser.argument
    lower = upper = None
    for _ in range(2):
        if parser.accept("mark", "_"):
            lower = argument()
        elif parser.accept("mark", "^"):
            upper = argument()
    return lower, upper


def _arguments(parser: "Parser") -> tuple[Value, ...]:
    if parser.is_next("mark", "{"):
        inner = brackets.braces(parser)
    elif parser.is_next("mark", "(", "["):
        opening = parser.take().text
        if opening == "(" and parser.peek().text == "[":
            raise UnreadableError("a list in brackets is no argument of a function")
        inner = brackets.closed(parser, opening)
    else:
        return (_bare_argument(parser),)
    return inner.items if isinstance(inner, Bracketed) else (_with_degrees(parser, inner),)


def _with_degrees(parser: "Parser", inner: Value) -> Value:
    """sin(x)! does not occur, but the degree sign of sin(30)^o belongs to the angle."""
    if parser.peek().text == "^" and parser.peek(1).text in ("circ", "{") and "circ" in (parser.peek(1).text, parser.peek(2).text):
        parser.take()
        quantities.accept_degree_sign(parser)
        return quantities.angle(parser, inner)
    return inner


def _bare_argument(parser: "Parser") -> Value:
    """The factors up to a sign, an operator or the next function, as in sin 2x cos x."""
    if parser.accept("mark", "-"):
        return build.negate(_bare_argument(parser))
    value = parser.factor()
    while parser.starts_factor() and not (parser.peek().kind == "name" and parser.peek().text in words.FUNCTIONS):
        value = build.multiply(value, parser.factor())
    return value


def _applied(name: str, args: tuple[Value, ...], base: Value | None) -> Value:
    if name == "exp" and len(args) == 1:
        return build.power(EULER, args[0])
    if name == "cis" and len(args) == 1:
        return build.add(build.call("cos", args), build.multiply(IMAGINARY, build.call("sin", args)))
    if name == "cbrt":
        return build.call("root", (*args, integer(3)))
    if name == "lg":
        return build.call("logb", (*args, integer(10)))
    if name == "log" and base is not None:
        return build.call("logb", (*args, base))
    return build.call(name, args)
