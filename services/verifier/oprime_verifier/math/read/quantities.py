"""Numbers with their units: money, angles, percentages and measures."""

from fractions import Fraction
from typing import TYPE_CHECKING

from oprime_verifier.math.read import words
from oprime_verifier.math.read.tokens import Token
from oprime_verifier.math.read.units import CURRENCY_SIGNS, make_unit, words_to_parts
from oprime_verifier.math.tree import build
from oprime_verifier.math.tree.values import DEGREE, EXPRESSIONS, PI, Add, Expr, Mul, Num, Quantity, UnreadableError, Value, integer

if TYPE_CHECKING:
    from oprime_verifier.math.read.parser import Parser

DEGREE_SIGNS = ("circ", "degree", "textdegree")
MONEY_SIGNS = {**{sign.lstrip("\\"): unit for sign, unit in CURRENCY_SIGNS.items()}, "pounds": "gbp", "euro": "euro", "yen": "yen"}


# Signs before and behind a number


def money(parser: "Parser", sign: str) -> Value:
    """An amount behind its currency sign."""
    negative = parser.accept("mark", "-")
    inner = build.negate(parser.factor()) if negative else parser.factor()
    if not isinstance(inner, EXPRESSIONS):
        raise UnreadableError("money is a number")
    unit = make_unit(((MONEY_SIGNS[sign], 1),))
    token = parser.peek()
    first, _, rest = token.text.lower().partition(" ") if token.kind == "word" else ("", "", "")
    if first in words.MAGNITUDES:
        parser.take()
        return Quantity(Mul((inner, Num(words.MAGNITUDES[first]))), unit)
    if first in ("per", "an", "a", "each", "every") and rest:
        parser.take()
        return Quantity(inner, make_unit(((MONEY_SIGNS[sign], 1), *words_to_parts(f"per {rest}"))))
    return Quantity(inner, unit)


def signed_quantity(parser: "Parser", value: Expr) -> Value | None:
    """The value with the sign that follows it: 5%, 90\\degree, 5\\$; None without one."""
    token = parser.peek()
    if parser.accept("name", *DEGREE_SIGNS[1:]):
        return angle(parser, value)
    if token.text == "%" or (token.text in MONEY_SIGNS and token.kind in ("mark", "name")):
        parser.take()
        return Quantity(value, make_unit(((MONEY_SIGNS.get(token.text, "percent"), 1),)))
    return None


def accept_degree_sign(parser: "Parser") -> bool:
    """Take a raised circle, in braces or not; whether there was one."""
    braced = parser.is_next("mark", "{")
    token = parser.peek(1 if braced else 0)
    if token.text not in DEGREE_SIGNS or (braced and parser.peek(2).text != "}"):
        return False
    parser.place += 3 if braced else 1
    return True


def angle(parser: "Parser", value: Value) -> Value:
    """An angle behind its degree sign, or a temperature."""
    if parser.peek().text in ("C", "F") and parser.peek().kind in ("letter", "word") and isinstance(value, EXPRESSIONS):
        return Quantity(value, make_unit(((f"degree{parser.take().text}", 1),)))
    for marks, share in (("'", Fraction(1, 60)), ("''", Fraction(1, 3600))):
        part = _minutes(parser, marks)
        value = value if part is None else build.add(value, Num(part * share))
    return build.multiply(value, DEGREE)


def _minutes(parser: "Parser", marks: str) -> Fraction | None:
    """The number before one prime (minutes of arc) or two (seconds); None where there is none."""
    token = parser.peek()
    if token.number is None or token.number.value >= 60:
        return None
    for texts in (tuple(marks), ("^", *["prime"] * len(marks)), ("^", "{", *["prime"] * len(marks), "}"), ("prime",) * len(marks)):
        if tuple(parser.peek(1 + place).text for place in range(len(texts))) == texts and parser.peek(1 + len(texts)).text != "'":
            parser.place += 1 + len(texts)
            return token.number.value
    return None


# Units in words and symbols


def starts_unit(parser: "Parser", ahead: int) -> bool:
    token = parser.peek(ahead)
    return token.kind == "word" or (token.kind == "name" and token.text == "AA")


def with_unit(parser: "Parser", value: Value) -> Value:
    """The value of a term with the unit behind it, or with what it is a residue of."""
    token = parser.peek()
    if parser.accept("name", "pmod"):
        return build.residue(value, parser.factor())
    if not (token.kind == "word" or starts_unit(parser, 0) or (token.text == "/" and starts_unit(parser, 1))):
        return value
    if isinstance(value, Quantity) and value.unit.text == "degree" and token.text in ("C", "F", "K"):
        parser.take()
        return Quantity(value.value, make_unit(((f"degree{token.text}", 1),)))
    if not isinstance(value, EXPRESSIONS):
        raise UnreadableError("only a number has a unit")
    first, _, rest = token.text.partition(" ")
    changed = _changed(value, first.lower()) if token.kind == "word" else None
    if changed is None:
        return _measured(parser, value)
    if rest:
        parser.tokens[parser.place] = Token("word", rest)
    else:
        parser.take()
    return with_unit(parser, changed)


def _changed(value: Expr, word: str) -> Value | None:
    """The value with a word behind it that is part of the number: million, thirds, squared; None for other words."""
    if word in words.MAGNITUDES:
        return build.multiply(value, Num(words.MAGNITUDES[word]))
    if word in words.POWER_WORDS:
        return build.power(value, integer(words.POWER_WORDS[word]))
    return build.multiply(value, PI) if word == "pi" else None


def _measured(parser: "Parser", value: Expr) -> Value:
    parts = _unit_parts(parser)
    if any(name.lower() in words.PYTHON_WORDS for name, _ in parts):
        raise UnreadableError("this is a program, and no mathematics")
    if any(name.lower() in words.NO_UNITS for name, _ in parts):
        raise UnreadableError("the words behind the number are no unit")
    return _with_smaller_unit(parser, Quantity(value, make_unit(parts))) if parts else value


def _with_smaller_unit(parser: "Parser", first: Quantity) -> Value:
    """2 hours 30 minutes is one quantity."""
    if parser.peek().kind != "number" or not starts_unit(parser, 1) or not first.unit.dimension:
        return first
    second = with_unit(parser, parser.factor())
    if not isinstance(second, Quantity) or second.unit.dimension != first.unit.dimension:
        raise UnreadableError("two quantities stand side by side")
    part = Mul((second.value, Num(second.unit.factor / first.unit.factor)))
    return Quantity(Add((first.value, part)), first.unit)


def _unit_parts(parser: "Parser") -> tuple[tuple[str, int], ...]:
    parts, sign = list[tuple[str, int]](), 1
    while True:
        joined = parser.peek().text in ("/", "cdot", "*", "times")
        if joined and (starts_unit(parser, 1) or (parts and parser.peek(1).kind == "letter")):
            sign = -1 if parser.take().text == "/" else sign
        elif not starts_unit(parser, 0):
            return tuple(parts)
        token = parser.take()
        new = list(words_to_parts("angstrom" if token.text == "AA" else token.text, sign))
        if parser.peek().text == "^" and new:
            new[-1] = (new[-1][0], new[-1][1] * _unit_power(parser))
        parts += new


def _unit_power(parser: "Parser") -> int:
    parser.take()
    exponent = parser.argument()
    if isinstance(exponent, Num) and exponent.value.denominator == 1 and abs(exponent.value) < 10:
        return int(exponent.value)
    raise UnreadableError("a unit has a small integer as its power")
