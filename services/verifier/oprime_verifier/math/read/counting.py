"""Numbers of choices and arrangements by their letters: C_5^2, A_5^2, P_5^2."""

from typing import TYPE_CHECKING

from oprime_verifier.math.tree import build
from oprime_verifier.math.tree.values import EXPRESSIONS, Call, Expr, Num, UnreadableError, Value, negative

if TYPE_CHECKING:
    from oprime_verifier.math.read.parser import Parser

_CHOICES, _ARRANGEMENTS = "C", "AP"


def choices(parser: "Parser", name: str) -> Value | None:
    """What a C, A or P with a subscript and an exponent counts; None where it is a variable with a power."""
    if name not in (_CHOICES, *_ARRANGEMENTS) or parser.peek().text not in ("_", "^"):
        return None
    start, tokens = parser.place, list(parser.tokens)
    try:
        scripts = dict[str, Value]()
        while parser.peek().text in ("_", "^") and parser.peek().text not in scripts:
            mark = parser.take().text
            scripts[mark] = parser.token_argument()
    except UnreadableError:
        scripts = dict[str, Value]()
    upper, lower = scripts.get("_"), scripts.get("^")
    if isinstance(upper, EXPRESSIONS) and isinstance(lower, EXPRESSIONS) and _counts(name, upper, lower):
        return build.call("binom", (upper, lower)) if name == _CHOICES else arrangements(upper, lower)
    parser.place, parser.tokens = start, tokens
    return None


def _counts(name: str, upper: Expr, lower: Expr) -> bool:
    """Whether as many can be chosen; with letters, C alone has this meaning: A_n^2 is the square of A_n."""
    if isinstance(upper, Num) and isinstance(lower, Num):
        return upper.value.denominator == lower.value.denominator == 1 and 0 <= lower.value <= upper.value and upper.value > 1
    return name == _CHOICES and not isinstance(upper, Num) and not (isinstance(lower, Num) and lower.value < 0)


def with_arrangements(value: Value, other: Value) -> Value:
    """P(5, 2) and A(5, 2) beside a number as the number of arrangements that they are."""
    if not (isinstance(value, Call) and value.name in ("@P", "@A") and len(value.args) == 2 and isinstance(other, Num)):
        return value
    upper, lower = value.args
    return arrangements(upper, lower) if isinstance(lower, Num) and _counts(value.name[1:], upper, lower) else value


def arrangements(upper: Expr, lower: Expr) -> Value:
    """upper! / (upper - lower)!"""
    return build.divide(build.call("factorial", (upper,)), build.call("factorial", (build.add(upper, negative(lower)),)))
