"""Letters and commands: constants, variables with their indices, named sets, and what a command takes; and answers in words."""

from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING

from oprime_verifier.math.read import applied, brackets, calculus, counting, environments, functions, quantities, words
from oprime_verifier.math.read.tokens import Token
from oprime_verifier.math.tree import build
from oprime_verifier.math.tree.values import (
    EULER,
    EXPRESSIONS,
    IMAGINARY,
    INFINITY,
    PI,
    NamedSet,
    Num,
    Sym,
    UnreadableError,
    Value,
    Words,
    integer,
    symbols,
)

if TYPE_CHECKING:
    from oprime_verifier.math.read.parser import Parser


def word_value(text: str) -> Value:
    """An answer in words: a letter, a number word, or words."""
    lowered = " ".join(text.lower().split()).strip(" .,;:!\"'`")
    if len(text.strip()) == 1:
        return Sym(text.strip())
    if lowered in words.NUMBER_WORDS:
        return Num(Fraction(words.NUMBER_WORDS[lowered]))
    if lowered in words.REAL_NUMBERS:
        return NamedSet("R")
    if lowered in words.INFINITE:
        return INFINITY
    return Words(words.SYNONYMS.get(lowered, lowered))


def letter(parser: "Parser", token: Token) -> Value:
    if token.text in ("e", "i") and not parser.is_next("mark", "_", "'"):
        return applied.constant_application(parser, token.text) or (EULER if token.text == "e" else IMAGINARY)
    return counting.choices(parser, token.text) or _named(parser, token.text)


def _named(parser: "Parser", name: str) -> Value:
    """A variable, or the function of this name where an argument follows."""
    symbol = _subscripted(parser, name)
    derived = applied.derived_name(parser, symbol.name)
    return applied.application(parser, derived or symbol.name) or symbol


def _subscripted(parser: "Parser", name: str) -> Sym:
    while parser.accept("mark", "'"):
        name += "'"
    return Sym(f"{name}_{parser.raw_group()}" if parser.accept("mark", "_") else name)


def named_set(parser: "Parser", token: Token) -> Value:
    if token.text not in words.NAMED_SETS:
        raise UnreadableError(f"{token.text!r} is no set that is read")
    found = words.NAMED_SETS[token.text]
    return NamedSet(f"{found}{parser.raw_group()}" if parser.accept("mark", "^", "_") else found)


def name(parser: "Parser", token: Token) -> Value:  # noqa: PLR0911 - one line for each kind of name
    text = token.text
    if text in _COMMANDS:
        return _COMMANDS[text](parser)
    if text in words.CONSTANTS:
        return PI if words.CONSTANTS[text] == "pi" else INFINITY
    if text in words.FUNCTIONS and text != "gamma" and not (text in words.GREEK and parser.peek().text != "("):
        return functions.function(parser, text)
    if text in words.NAMED_SETS:
        return NamedSet(words.NAMED_SETS[text])
    if text in quantities.MONEY_SIGNS:
        return quantities.money(parser, text)
    if text in words.ACCENTS:
        return _accented(parser, text)
    if text in words.GREEK or text in ("star", "prime"):
        return _named(parser, text)
    raise UnreadableError(f"\\{text} is not read")


def _accented(parser: "Parser", accent: str) -> Value:
    below = parser.raw_group().removeprefix("vec ")
    direction = below.removesuffix("math")
    if accent == "hat" and direction in ("i", "j", "k"):
        return Sym(f"vec {direction}")
    return _named(parser, f"{accent} {below}")


def _overlined(parser: "Parser") -> Value:
    start = parser.place
    inner = parser.argument()
    if isinstance(inner, EXPRESSIONS) and not symbols(inner):
        return build.call("conj", (inner,))
    return Sym("overline " + "".join(token.text for token in parser.tokens[start : parser.place]))


def _geometric(parser: "Parser") -> Value:
    """An angle or triangle by its points is a name."""
    texts = [parser.tokens[parser.place - 1].text]
    while parser.peek().kind == "letter":
        texts.append(_subscripted(parser, parser.take().text).name)
    return Sym(" ".join(texts))


_COMMANDS: dict[str, Callable[["Parser"], Value]] = {
    "frac": lambda parser: build.fraction(parser.token_argument(), parser.token_argument()),
    "binom": lambda parser: build.call("binom", (parser.token_argument(), parser.token_argument())),
    "cbrt": lambda parser: build.call("root", (parser.argument(), integer(3))),
    "lfloor": lambda parser: brackets.rounded(parser, "floor", "rfloor"),
    "lceil": lambda parser: brackets.rounded(parser, "ceil", "rceil"),
    "langle": brackets.angled,
    "lvert": brackets.absolute,
    "vert": brackets.absolute,
    "overline": _overlined,
    "bar": _overlined,
    "angle": _geometric,
    "triangle": _geometric,
    "begin": environments.environment,
    "{": brackets.set_of,
    "lbrace": brackets.set_of,
    "sum": lambda parser: calculus.over_an_index(parser, "sum"),
    "prod": lambda parser: calculus.over_an_index(parser, "prod"),
    "int": calculus.integral,
    "lim": calculus.limit,
}
