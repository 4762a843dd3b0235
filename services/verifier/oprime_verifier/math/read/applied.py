r"""Letters before brackets: the name of a function with its argument, or a factor of a product.

`v(0)`, `P(A+B)` and `T(n-1)` are functions, `n(n+1)` and `k(x-1)` products, and nothing but custom tells them apart. What is read here as a
function is compared as one; the verifier asks for the products of a name that stands alone elsewhere (`Reading.variables`).
"""

from typing import TYPE_CHECKING

from oprime_verifier.math.read import brackets, words
from oprime_verifier.math.read.tokens import Token
from oprime_verifier.math.tree import build
from oprime_verifier.math.tree.values import Bracketed, Call, Items, Num, Relation, Sym, UnreadableError, Value, symbols, walk

if TYPE_CHECKING:
    from oprime_verifier.math.read.parser import Parser

_OPENING = {"(": ")", "[": "]"}
_WITH_SQUARE_BRACKETS = words.names("E P Pr Var Cov Corr")
_COEFFICIENTS = frozenset("abcdklmnorstxzMR") | words.names("alpha beta lambda rho epsilon kappa nu xi eta mu omega sigma tau gamma")
"""Names that are factors where a sum of several terms follows: a(b+c), k(x-1), 2r(r+h)."""
_SEQUENCES = frozenset("abcdsxrzRM") | words.names("mu sigma tau gamma")
"""Of those, names that are sequences where an index is shifted: a(n+1), x(t-2)."""
_INDICES = frozenset("nt")
_FUNCTIONS = frozenset("fghFGH")
"""Names that are functions also with a power between name and argument: f^{-1}(x)."""
_FUNCTIONS_OF_ANGLES = frozenset("fFPETuD")
_ANGLES = words.names("sin cos tan cot sec csc sqrt")
_SIGNS = ("+", "-", "pm", "mp")
_NUMERIC_NAMES = words.names("pi frac cdot times infty")


def application(parser: "Parser", name: str) -> Value | None:
    """The function `name` of what stands in the brackets that follow; None for a name that is a factor, or has none behind it."""
    opening = parser.peek().text
    if parser.peek().kind != "mark" or opening not in _OPENING or (opening == "[" and name not in _WITH_SQUARE_BRACKETS):
        return None
    inside = _inside(parser)
    if inside is None or not _is_function(name, inside, parser.factors):
        return None
    if any(_is_statement(token) for token in inside):
        parser.place += len(inside) + 2
        return build.call(f"@{name}", (Sym("".join(token.text for token in inside)),))
    parser.take()
    inner = brackets.closed(parser, opening)
    items = inner.items if isinstance(inner, Bracketed) else (inner,)
    return _counted(name, items) or build.call(f"@{name}", items)


def constant_application(parser: "Parser", name: str) -> Value | None:
    """i(0) and e(t): a current or an error, where a product would be written the other way round."""
    inside = _inside(parser) if parser.peek().text == "(" and parser.peek().kind == "mark" else None
    if inside is None or len(inside) != 1 or not (inside[0].text in ("0", "t") or (name == "i" and inside[0].kind == "number")):
        return None
    return application(parser, name)


def derived_name(parser: "Parser", name: str) -> str | None:
    """The name of f^{-1} or f^{(n)} before an argument, with its tokens taken; None where the power is one."""
    if not parser.is_next("mark", "^"):
        return None
    start = parser.place
    parser.take()
    try:
        power = parser.raw_group()
    except UnreadableError:
        parser.place = start
        return None
    is_derivative = power.startswith("(") and power.endswith(")")
    if parser.peek().text == "(" and parser.peek().kind == "mark" and (is_derivative or (name in _FUNCTIONS and power in ("-1", "2", "3"))):
        return f"{name}^{power}"
    parser.place = start
    return None


def _inside(parser: "Parser") -> list[Token] | None:
    """The tokens between the brackets that open here; None where they do not close."""
    depth = 0
    for place in range(parser.place, len(parser.tokens)):
        token = parser.tokens[place]
        if token.kind == "mark" and token.text in "([{":
            depth += 1
        elif token.kind == "mark" and token.text in ")]}":
            depth -= 1
            if depth == 0:
                return parser.tokens[parser.place + 1 : place]
    return None


def _is_function(name: str, inside: list[Token], factors: frozenset[str]) -> bool:
    if _is_plain_number(inside) or len(inside) == 1 or any(token.text in (",", ";") or _is_statement(token) for token in inside):
        return True
    stem = name.partition("_")[0]
    if name not in factors and (not _is_sum(inside) or "'" in name or (len(stem) > 1 and stem not in _COEFFICIENTS)):
        return True
    if name in factors or (any(token.text in _ANGLES for token in inside) and stem not in _FUNCTIONS_OF_ANGLES):
        return False
    if stem in _COEFFICIENTS:
        return stem in _SEQUENCES and _is_shifted_index(inside)
    return not _is_growth(name, inside)


def _is_growth(name: str, inside: list[Token]) -> bool:
    """Whether a start grows or decays, as in P(1+r) and V_0(1-e^{-t}): the argument of a function seldom begins with a one."""
    is_start = name.endswith("_0") or (len(name) == 1 and name.isupper() and name not in "FGHT")
    return is_start and inside[0].text == "1" and inside[1].text in _SIGNS


def _is_plain_number(inside: list[Token]) -> bool:
    """Whether it is a number as written, as in v(0), f(1/2) and y(\\pi): no sum or root of numbers, which a factor may stand before."""
    return all(
        token.kind == "number" or token.text in _NUMERIC_NAMES or (token.kind == "mark" and token.text in "{}-/") for token in inside
    ) and not any(token.text == "-" for token in inside[1:])


def _is_statement(token: Token) -> bool:
    """Whether it makes the argument an event or a condition: P(X = 3), P(A | B), P(A \\cup B)."""
    is_sign = token.text in words.RELATIONS or token.text in words.SET_OPERATORS or token.text in ("|", "mid", "vert")
    return (is_sign and token.kind in ("mark", "name")) or token.kind == "joiner"


def _is_sum(inside: list[Token]) -> bool:
    """Whether a sign stands between two terms, outside of any brackets."""
    depth = 0
    for place, token in enumerate(inside):
        depth += (token.text in ("(", "[", "{")) - (token.text in (")", "]", "}"))
        if depth == 0 and place and token.text in _SIGNS and inside[place - 1].text not in ("^", "_", *_SIGNS):
            return True
    return False


def _is_shifted_index(inside: list[Token]) -> bool:
    first, _, *rest = inside if len(inside) > 1 else [*inside, *inside]
    return first.text in _INDICES and len(rest) == 1 and rest[0].kind in ("number", "letter")


def _counted(name: str, items: tuple[Value, ...]) -> Value | None:
    """C(5, 2) is the number of ways to choose two of five."""
    if name != "C" or len(items) != 2:
        return None
    upper, lower = items
    if not (isinstance(upper, Num) and isinstance(lower, Num)) or upper.value < lower.value or lower.value < 0:
        return None
    return build.call("binom", (upper, lower)) if upper.value.denominator == lower.value.denominator == 1 else None


# What a text has of both


def applied_names(value: object) -> frozenset[str]:
    """Names read as functions of something that is no plain number, so that they might be factors."""
    return frozenset(
        part.name[1:]
        for part in walk(value)
        if isinstance(part, Call) and part.name[:1] == "@" and len(part.args) == 1 and not isinstance(part.args[0], Num)
    )


def bare_names(value: Value) -> frozenset[str]:
    """Variables that stand alone somewhere, but for the side of an equation that only names the other one."""
    if isinstance(value, Items):
        return frozenset[str]().union(*map(bare_names, value.items))
    if isinstance(value, Relation):
        return frozenset[str]().union(*(bare_names(side) for side in value.sides if not isinstance(side, Sym)))
    return symbols(value)
