"""Recursive descent from tokens to values: lists, relations, sets, sums, products, powers."""

from fractions import Fraction

from oprime_verifier.math import build, words
from oprime_verifier.math.atoms import Atoms
from oprime_verifier.math.tokens import Token
from oprime_verifier.math.units import make_unit, words_to_parts
from oprime_verifier.math.values import (
    EXPRESSIONS,
    INFINITY,
    Add,
    Call,
    Items,
    NamedSet,
    Num,
    Quantity,
    Ratio,
    Relation,
    SetExpr,
    Sign,
    Sym,
    UnreadableError,
    Value,
    Words,
)


class Parser(Atoms):
    def whole(self) -> Value:
        self._skip_phrase()
        self._skip_sign()
        value = self.items()
        if not self.at_end():
            raise UnreadableError(f"{self.peek().text!r} is not expected there")
        return value

    def _skip_phrase(self) -> None:
        token = self.peek()
        if token.kind != "word" or self.peek(1).kind in ("end", "word"):
            return
        lowered = token.text.lower().rstrip(":")
        if lowered in words.LEADING_PHRASES or lowered.endswith((" is", " are", " equals")):
            self.take()
            if self.peek().text == ":":
                self.take()

    def _skip_sign(self) -> None:
        """= 5 and \\approx 5, whose left side stands in front of the answer."""
        if self.peek().kind in ("mark", "name") and words.RELATIONS.get(self.peek().text) in ("=", "~") and not self.at_end():
            self.take()

    # Lists

    def items(self) -> Value:
        found, joiner = [self.relation()], ","
        while True:
            joined = self._separator()
            if joined is None or (self.at_end() and joined == ","):
                break
            joiner = joined if joined != "," else joiner
            found.append(self.relation())
        return found[0] if len(found) == 1 else Items(tuple(found), joiner)

    def _separator(self) -> str | None:
        token, joined = self.peek(), None
        if token.text in (",", ";") and token.kind == "mark":
            self.take()
            joined = ","
        token = self.peek()
        if token.kind == "joiner" or (token.kind == "name" and token.text in words.JOINERS):
            self.take()
            joined = words.JOINERS[token.text]
        return joined

    # Relations

    def relation(self) -> Value:
        sides, operators = [self._side()], list[str]()
        while (operator := self._relation_operator()) is not None:
            operators.append(operator)
            sides.append(self._side())
        return sides[0] if not operators else Relation(tuple(sides), tuple(operators))

    def _relation_operator(self) -> str | None:
        token = self.peek()
        if token.kind not in ("mark", "name") or token.text not in words.RELATIONS:
            return None
        self.take()
        if token.text in "<>" and self.peek().text == "=" and not self.peek().spaced:
            self.take()
            return token.text + "="
        return words.RELATIONS[token.text]

    def _side(self) -> Value:
        left = self._set_operand()
        while self.peek().kind == "name" and self.peek().text in words.SET_OPERATORS:
            operator = words.SET_OPERATORS[self.take().text]
            right = self._set_operand()
            left = SetExpr(operator, (left, right))
        return left

    def _set_operand(self) -> Value:
        start = self.place
        value = self._labelled() or self.sum()
        parts = [value]
        while self.peek().text in (":", "colon") and not self.in_set:
            self.take()
            parts.append(self.sum())
        if len(parts) == 1:
            return value
        plain = [part for part in parts if isinstance(part, EXPRESSIONS)]
        if len(plain) != len(parts):
            raise UnreadableError("a ratio has numbers")
        return Ratio(tuple(plain), "".join(token.text for token in self.tokens[start : self.place]))

    def _labelled(self) -> Value | None:
        """Upright words where a value is expected: the name of a quantity before =, or an answer in words."""
        token = self.peek()
        if token.kind != "word":
            return None
        follows = self.peek(1)
        if follows.text in words.RELATIONS:
            self.take()
            return Sym(token.text.lower())
        if follows.kind in ("end", "joiner") or follows.text in (",", ";", ")", "}"):
            self.take()
            return word_value(token.text)
        return None

    # Sums and products

    def sum(self) -> Value:
        self.enter()
        value = self._signed_term()
        while (token := self.peek()).text in ("+", "-", "pm", "mp"):
            value = build.add(value, self._signed_term())
            del token
        if self.peek().text in ("over", "choose") and self.peek().kind == "name":
            name = self.take().text
            lower = self.sum()
            value = self.fraction(value, lower) if name == "over" else build.call("binom", (value, lower))
        self.leave()
        return value

    def _signed_term(self) -> Value:
        token = self.peek()
        if token.text in ("+", "-") and token.kind == "mark":
            self.take()
            inner = self._signed_term() if self.peek().text in ("+", "-") else self._term()
            return build.negate(inner) if token.text == "-" else inner
        if token.text in ("pm", "mp") and token.kind == "name":
            self.take()
            sign = self.next_sign(flipped=token.text == "mp")
            return build.signed(self._term(), sign)
        return self._term()

    def _term(self) -> Value:
        value = self.factor()
        while True:
            token = self.peek()
            if token.text in ("*", "cdot", "times", "ast", "/", "div", "bmod", "mod") and token.kind in ("mark", "name"):
                if token.text == "/" and self._starts_unit(1):
                    break
                value = self._explicit(value, self.take().text)
            elif self.starts_factor(token):
                value = build.multiply(value, self.factor())
            else:
                break
        return self._with_unit(value)

    def _explicit(self, value: Value, operator: str) -> Value:
        right = build.negate(self._after_sign()) if self.peek().text == "-" else self.factor()
        if operator in ("/", "div"):
            return self.fraction(value, right)
        if operator in ("bmod", "mod"):
            return build.call("mod", (value, right))
        return build.multiply(value, right)

    def _after_sign(self) -> Value:
        self.take()
        return self.factor()

    # Units

    def _with_unit(self, value: Value) -> Value:
        token = self.peek()
        if token.kind == "name" and token.text == "pmod":
            return build.call("@residue", (value, self._modulus()))
        if not (token.kind == "word" or self._starts_unit(0) or (token.text == "/" and self._starts_unit(1))):
            return value
        if isinstance(value, Quantity) and value.unit.text == "degree" and token.text in ("C", "F", "K"):
            self.take()
            return Quantity(value.value, make_unit(((f"degree{token.text}", 1),)))
        return self._measured(value)

    def _modulus(self) -> Value:
        self.take()
        return self.factor()

    def _starts_unit(self, ahead: int) -> bool:
        token = self.peek(ahead)
        return token.kind == "word" or (token.kind == "name" and token.text == "AA")

    def _measured(self, value: Value) -> Value:
        if not isinstance(value, EXPRESSIONS):
            raise UnreadableError("only a number has a unit")
        token = self.peek()
        if token.kind == "word":
            first, _, rest = token.text.partition(" ")
            if first.lower() in words.MAGNITUDES:
                scaled = build.multiply(value, Num(Fraction(words.MAGNITUDES[first.lower()])))
                self.take()
                if rest:
                    self.place -= 1
                    self.tokens[self.place] = Token("word", rest)
                return self._with_unit(scaled)
        parts = self._unit_parts()
        if any(name.lower() in words.PYTHON_WORDS for name, _ in parts):
            raise UnreadableError("this is a program, and no mathematics")
        if any(name.lower() in words.NO_UNITS for name, _ in parts):
            raise UnreadableError("the words behind the number are no unit")
        return self._with_smaller_unit(Quantity(value, make_unit(parts))) if parts else value

    def _with_smaller_unit(self, first: Quantity) -> Value:
        """2 hours 30 minutes is one quantity."""
        if self.peek().kind != "number" or not self._starts_unit(1) or not first.unit.dimension:
            return first
        second = self._with_unit(self.factor())
        if not isinstance(second, Quantity) or second.unit.dimension != first.unit.dimension:
            raise UnreadableError("two quantities stand side by side")
        part = build.multiply(second.value, Num(second.unit.factor / first.unit.factor))
        return Quantity(build.add(first.value, part), first.unit)  # pyright: ignore[reportArgumentType]

    def _unit_parts(self) -> tuple[tuple[str, int], ...]:
        parts, sign = list[tuple[str, int]](), 1
        while True:
            if self.peek().text in ("/", "cdot", "*", "times") and (self._starts_unit(1) or (parts and self.peek(1).kind == "letter")):
                sign = -1 if self.take().text == "/" else sign
            elif not self._starts_unit(0):
                return tuple(parts)
            token = self.take()
            text = "angstrom" if token.text == "AA" else token.text
            new = list(words_to_parts(text, sign))
            if self.peek().text == "^" and new:
                new[-1] = (new[-1][0], new[-1][1] * self._unit_power())
            parts += new

    def _unit_power(self) -> int:
        self.take()
        exponent = self.argument()
        if isinstance(exponent, Num) and exponent.value.denominator == 1 and abs(exponent.value) < 10:
            return int(exponent.value)
        raise UnreadableError("a unit has a small integer as its power")


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


def parse(tokens: list[Token]) -> Value:
    """The value that the tokens write. Raises UnreadableError and TooLargeError."""
    return Parser(tokens).whole()


__all__ = ["Add", "Call", "Parser", "Sign", "parse", "word_value"]
