"""The smallest parts of an answer: numbers, letters and names; and what stands behind them."""

from collections.abc import Callable
from fractions import Fraction

from oprime_verifier.math import build, words
from oprime_verifier.math.brackets import MONEY_SIGNS
from oprime_verifier.math.calculus import Calculus
from oprime_verifier.math.functions import DEGREE_SIGNS
from oprime_verifier.math.tokens import Token
from oprime_verifier.math.units import make_unit
from oprime_verifier.math.values import (
    EULER,
    EXPRESSIONS,
    IMAGINARY,
    INFINITY,
    PI,
    Bracketed,
    Call,
    Items,
    NamedSet,
    Num,
    Pow,
    Quantity,
    Sym,
    TooLargeError,
    UnreadableError,
    Value,
    integer,
    symbols,
)

_STARTING_NAMES = (
    words.FUNCTIONS
    | words.GREEK
    | words.CONSTANTS.keys()
    | words.ACCENTS
    | words.names("frac sqrt cbrt binom overline bar begin lfloor lceil langle lvert sum prod lim int { lbrace angle triangle")
)
_LABEL_FUNCTIONS = frozenset("fgh")
MAX_POWERS = 16
"""Exponents of one base, one behind the other."""


class Atoms(Calculus):
    # Factors: an atom with its powers, factorials, percent and degree signs

    def starts_factor(self, token: Token) -> bool:
        """Whether a factor may begin here without a multiplication sign before it."""
        if token.kind in ("letter", "digits", "set"):
            return token.kind != "set"
        if token.kind == "number":
            return self._may_multiply(token)
        if token.kind == "mark":
            return token.text in ("(", "[", "{") or (token.text == "|" and not self.bars)
        return token.kind == "name" and token.text in _STARTING_NAMES

    def _may_multiply(self, number: Token) -> bool:
        """Whether a number stands behind what it can only multiply: 4 2 is no product, and neither x2 nor 2^3 2 is surely one."""
        before = self.tokens[self.place - 1] if self.place else number
        if before.kind != "number" and before.text in (")", "}", "]", "pi"):
            return True
        last = self.last_factor
        if isinstance(last, Pow):
            return not isinstance(last.exponent, Num)
        return last == IMAGINARY or (isinstance(last, Call) and last.name == "root" and number.spaced)

    def factor(self) -> Value:
        self.enter()
        value = self._postfix(self._atom())
        self.last_factor = value
        self.leave()
        return value

    def _postfix(self, value: Value) -> Value:
        while True:
            token = self.peek()
            if token.text == "^" and token.kind == "mark":
                value = self._raised(value)
            elif token.text == "!" and token.kind == "mark":
                value = build.call(self._factorial(), (value,))
            elif token.text in DEGREE_SIGNS[1:] and token.kind == "name" and isinstance(value, EXPRESSIONS):
                self.take()
                value = self._angle(value)
            elif token.text == "%" and isinstance(value, EXPRESSIONS):
                self.take()
                value = Quantity(value, make_unit((("percent", 1),)))
            elif token.text in MONEY_SIGNS and token.kind in ("mark", "name") and isinstance(value, EXPRESSIONS):
                self.take()
                value = Quantity(value, make_unit(((MONEY_SIGNS[token.text], 1),)))
            elif token.text == "'" and isinstance(value, Sym):
                self.take()
                value = Sym(value.name + "'")
            else:
                return value

    def _raised(self, value: Value) -> Value:
        self.take()
        if self._degree_sign():
            return self._angle(value)
        exponent = self._exponent()
        if exponent == Sym("prime") and isinstance(value, Sym):
            return Sym(value.name + "'")
        return build.power(value, exponent)

    def _exponent(self) -> Value:
        """2^3^2 is two to the ninth: the powers of an exponent come first."""
        signed = self.is_next("mark", "-", "+")
        found = [self.argument()]
        while self.is_next("mark", "^") and self.peek(1).text not in DEGREE_SIGNS and self.peek(2).text not in DEGREE_SIGNS:
            if len(found) >= MAX_POWERS:
                raise TooLargeError(f"a power has more than {MAX_POWERS} exponents")
            if signed:
                raise UnreadableError("a power of a signed exponent needs braces")
            self.take()
            found.append(self.argument())
        exponent = found.pop()
        while found:
            exponent = build.power(found.pop(), exponent)
        return exponent

    def _factorial(self) -> str:
        """n!! is the double factorial, which leaves out every other factor; (n!)! is written with brackets."""
        self.take()
        if not self.is_next("mark", "!") or self.peek().spaced:
            return "factorial"
        self.take()
        if self.is_next("mark", "!"):
            raise UnreadableError("three factorial signs in a row")
        return "factorial2"

    def argument(self) -> Value:
        """What a command or `^` takes: a group in braces, or one token; a number in ^12 counts whole, and -1 in ^-1 too."""
        if self.is_next("mark", "{"):
            return self._braces()
        if self.is_next("mark", "-", "+"):
            sign = self.take().text
            inner = self.argument()
            return build.negate(inner) if sign == "-" else inner
        return self._atom()

    # Atoms

    def _atom(self) -> Value:
        token = self.take()
        if token.kind == "number":
            return self._number(token)
        if token.kind == "digits":
            return self._based(token.text, required=True)
        if token.kind == "letter":
            return self._letter(token.text)
        if token.kind == "set":
            return self._named_set(token.text)
        if token.kind == "mark":
            return self._mark(token)
        if token.kind == "name":
            return self._name(token.text)
        raise UnreadableError(f"{token.text!r} is not expected there")

    def _number(self, token: Token) -> Value:
        number = token.number
        if number is None:
            raise UnreadableError(f"{token.text!r} is no number")
        if self.is_next("mark", "_"):
            return self._based(token.text, required=True)
        if number.value.denominator != 1 or number.digits:
            return number
        if self.is_next("name", "frac"):
            return self._mixed(number)
        upper, slash, lower = self.peek(), self.peek(1), self.peek(2)
        if upper.spaced and upper.kind == lower.kind == "number" and slash.text == "/" and upper.number and lower.number:
            self.place += 3
            return Num(number.value + _proper(upper.number, lower.number))
        return number

    def _mixed(self, whole: Num) -> Value:
        """A whole number before a fraction of integers is a mixed number, and never a product."""
        start = self.place
        self.take()
        upper, lower = self._fraction_arguments()
        if isinstance(upper, Num) and isinstance(lower, Num) and lower.value > 0 and upper.value >= 0:
            return Num(whole.value + _proper(upper, lower))
        self.place = start
        return whole

    def _based(self, digits: str, *, required: bool) -> Value:
        self.expect("mark", "_")
        subscript = self._base_word() or self.argument()
        if not isinstance(subscript, Num) or subscript.value.denominator != 1 or not 2 <= subscript.value <= 36:
            raise UnreadableError("a number's subscript is a base from 2 to 36")
        try:
            return Num(Fraction(int(digits, int(subscript.value))), based=digits.lstrip("0") or "0")
        except ValueError:
            raise UnreadableError(f"{digits[:20]} has digits that base {subscript.value} lacks") from None

    def _base_word(self) -> Value | None:
        braced = self.is_next("mark", "{")
        token = self.peek(1 if braced else 0)
        if token.kind != "word" or token.text.lower() not in words.BASES:
            return None
        self.place += 3 if braced else 1
        return integer(words.BASES[token.text.lower()])

    def _letter(self, letter: str) -> Value:
        if letter in ("e", "i") and not self.is_next("mark", "_", "'"):
            return EULER if letter == "e" else IMAGINARY
        return self._applied(self._subscripted(Sym(letter)))

    def _applied(self, symbol: Sym) -> Value:
        if symbol.name.rstrip("'") in _LABEL_FUNCTIONS and self.peek().text == "(":
            self.take()
            inner = self._closed("(")
            args = inner.items if isinstance(inner, Bracketed) else (inner,)
            return build.call(f"@{symbol.name}", args)
        return symbol

    def _subscripted(self, symbol: Sym) -> Sym:
        while self.is_next("mark", "'"):
            self.take()
            symbol = Sym(symbol.name + "'")
        if not self.is_next("mark", "_"):
            return symbol
        self.take()
        return Sym(f"{symbol.name}_{self.raw_group()}")

    def _named_set(self, name: str) -> Value:
        if name not in words.NAMED_SETS:
            raise UnreadableError(f"{name!r} is no set that is read")
        found: Value = NamedSet(words.NAMED_SETS[name])
        if self.is_next("mark", "^", "_"):
            self.take()
            found = NamedSet(f"{found.name}{self.raw_group()}")
        return found

    # Names

    def _name(self, name: str) -> Value:  # noqa: PLR0911 - one line for each kind of name
        reader = _READERS.get(name)
        if reader is not None:
            return reader(self)
        if name in words.CONSTANTS:
            return PI if words.CONSTANTS[name] == "pi" else INFINITY
        if name in words.FUNCTIONS and not (name in words.GREEK and self.peek().text != "("):
            return self._function(name)
        if name in words.NAMED_SETS:
            return NamedSet(words.NAMED_SETS[name])
        if name in MONEY_SIGNS:
            return self._money(name)
        if name in words.ACCENTS:
            return Sym(f"{name} {self.raw_group()}")
        if name in words.GREEK or name in ("star", "prime"):
            return self._subscripted(Sym(name))
        raise UnreadableError(f"\\{name} is not read")

    def _fraction_arguments(self) -> tuple[Value, Value]:
        return self.token_argument(), self.token_argument()

    def token_argument(self) -> Value:
        """A group or one token; of a number, one digit, as TeX takes it."""
        token = self.peek()
        if token.kind == "number" and len(token.text) > 1 and token.text.isdigit():
            rest = token.text[1:]
            self.tokens[self.place] = Token("number", rest, False, Num(Fraction(int(rest))))
            return integer(int(token.text[0]))
        return self.argument()

    def _fraction(self) -> Value:
        upper, lower = self._fraction_arguments()
        return self.fraction(upper, lower)

    def fraction(self, upper: Value, lower: Value) -> Value:
        if build.is_derivative_part(upper) and build.is_derivative_part(lower):
            return build.call("@derivative", (upper, lower))
        return build.divide(upper, lower)

    def _binomial(self) -> Value:
        return build.call("binom", (self.argument(), self.argument()))

    def _floor(self) -> Value:
        return self._rounded("floor", "rfloor")

    def _ceiling(self) -> Value:
        return self._rounded("ceil", "rceil")

    def _rounded(self, name: str, closing: str) -> Value:
        inner = self.sum()
        self.expect("name", closing)
        return build.call(name, (inner,))

    def _angled(self) -> Value:
        inner = self.items()
        self.expect("name", "rangle")
        return Bracketed(inner.items if isinstance(inner, Items) else (inner,), "<", ">")

    def _overlined(self) -> Value:
        start = self.place
        inner = self.argument()
        if isinstance(inner, EXPRESSIONS) and not symbols(inner):
            return build.call("conj", (inner,))
        return Sym("overline " + "".join(token.text for token in self.tokens[start : self.place]))

    def _geometric(self) -> Value:
        """An angle or triangle by its points is a name."""
        letters = [self.tokens[self.place - 1].text]
        while self.peek().kind == "letter":
            letters.append(self._subscripted(Sym(self.take().text)).name)
        return Sym(" ".join(letters))


def _proper(upper: Num, lower: Num) -> Fraction:
    if upper.value.denominator != 1 or lower.value.denominator != 1 or lower.value == 0:
        raise UnreadableError("the fraction of a mixed number has integers")
    return upper.value / lower.value


_READERS: dict[str, Callable[[Atoms], Value]] = {
    "frac": Atoms._fraction,
    "binom": Atoms._binomial,
    "cbrt": Atoms._cube_root,
    "lfloor": Atoms._floor,
    "lceil": Atoms._ceiling,
    "langle": Atoms._angled,
    "lvert": Atoms._absolute,
    "vert": Atoms._absolute,
    "overline": Atoms._overlined,
    "bar": Atoms._overlined,
    "angle": Atoms._geometric,
    "triangle": Atoms._geometric,
    "begin": Atoms._environment,
    "{": Atoms._set,
    "lbrace": Atoms._set,
    "sum": Atoms._summation,
    "prod": Atoms._product_sign,
    "int": Atoms._integral,
    "lim": Atoms._limit,
}
