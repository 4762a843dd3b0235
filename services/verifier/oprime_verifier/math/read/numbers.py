"""Numbers: in a base, mixed with a fraction, and the single digits that TeX takes as arguments."""

from fractions import Fraction
from typing import TYPE_CHECKING

from oprime_verifier.math.read import words
from oprime_verifier.math.read.tokens import Token
from oprime_verifier.math.tree.values import Num, UnreadableError, Value, integer

if TYPE_CHECKING:
    from oprime_verifier.math.read.parser import Parser


def number(parser: "Parser", token: Token) -> Value:
    found = token.number
    if found is None:
        raise UnreadableError(f"{token.text!r} is no number")
    if parser.is_next("mark", "_"):
        return digits(parser, token)
    if found.value.denominator != 1 or found.digits:
        return found
    if parser.is_next("name", "frac"):
        return _mixed(parser, found)
    upper, slash, lower = parser.peek(), parser.peek(1), parser.peek(2)
    if upper.spaced and upper.kind == lower.kind == "number" and slash.text == "/" and upper.number and lower.number:
        parser.place += 3
        return Num(found.value + _proper(upper.number, lower.number))
    return found


def _mixed(parser: "Parser", whole: Num) -> Value:
    """A whole number before a fraction of integers is a mixed number, and never a product."""
    start = parser.place
    parser.take()
    upper, lower = parser.token_argument(), parser.token_argument()
    if isinstance(upper, Num) and isinstance(lower, Num) and lower.value > 0 and upper.value >= 0:
        return Num(whole.value + _proper(upper, lower))
    parser.place = start
    return whole


def _proper(upper: Num, lower: Num) -> Fraction:
    if upper.value.denominator != 1 or lower.value.denominator != 1 or lower.value == 0:
        raise UnreadableError("the fraction of a mixed number has integers")
    return upper.value / lower.value


def digits(parser: "Parser", token: Token) -> Value:
    """Digits with their base as subscript."""
    parser.expect("mark", "_")
    base = _base_word(parser) or parser.argument()
    if not isinstance(base, Num) or base.value.denominator != 1 or not 2 <= base.value <= 36:
        raise UnreadableError("a number's subscript is a base from 2 to 36")
    try:
        return Num(Fraction(int(token.text, int(base.value))), based=token.text.lstrip("0") or "0")
    except ValueError:
        raise UnreadableError(f"{token.text[:20]} has digits that base {base.value} lacks") from None


def _base_word(parser: "Parser") -> Value | None:
    braced = parser.is_next("mark", "{")
    token = parser.peek(1 if braced else 0)
    if token.kind != "word" or token.text.lower() not in words.BASES:
        return None
    parser.place += 3 if braced else 1
    return integer(words.BASES[token.text.lower()])


def first_digit(parser: "Parser") -> Value | None:
    """The first digit of a number of several; the others stay."""
    token = parser.peek()
    if token.kind != "number" or len(token.text) == 1 or not token.text.isdigit():
        return None
    rest = token.text[1:]
    parser.tokens[parser.place] = Token("number", rest, False, Num(Fraction(int(rest))))
    return integer(int(token.text[0]))
