"""Recursive descent from tokens to values: lists, relations, sets, sums, products, factors.

`Parser` holds the place among the tokens and the levels of the grammar that refer to each other. What one level is made of stands
in the modules beside it, as functions of the parser: names, numbers, brackets, functions, calculus, quantities, and what follows a factor.
"""

from oprime_verifier.math.read import brackets, names, numbers, postfix, quantities, words
from oprime_verifier.math.read.tokens import END, MAX_NESTING, Token
from oprime_verifier.math.tree import build
from oprime_verifier.math.tree.exact import Budget
from oprime_verifier.math.tree.values import (
    DOTS,
    EXPRESSIONS,
    IMAGINARY,
    Call,
    Items,
    Num,
    Pow,
    Ratio,
    Relation,
    SetExpr,
    Sign,
    Sym,
    TooLargeError,
    UnreadableError,
    Value,
)

MAX_SIGNS = 3
_STARTING_NAMES = (
    words.FUNCTIONS
    | words.GREEK
    | words.CONSTANTS.keys()
    | words.ACCENTS
    | words.names("frac sqrt cbrt binom overline bar begin lfloor lceil langle lvert sum prod lim int { lbrace angle triangle")
)
_OPERATORS = ("*", "cdot", "times", "ast", "/", "div", "bmod", "mod")


def parse(tokens: list[Token], factors: frozenset[str] = frozenset()) -> Value:
    """The value that the tokens write. Raises UnreadableError and TooLargeError.

    Names among `factors` are factors where brackets follow; others may be functions.
    """
    return Parser(tokens, factors).whole()


class Parser:
    def __init__(self, tokens: list[Token], factors: frozenset[str] = frozenset()) -> None:
        self.tokens = list(tokens)
        self.factors = factors
        self.place = 0
        self.bars = 0
        """Absolute values that are open: inside them a bar closes."""
        self.in_set = False
        """Inside braces, where a colon or bar means `such that`."""
        self.budget = Budget()
        self._depth = 0
        self._signs = 0
        self._has_flipped = any(token.text == "mp" for token in tokens)
        self._last_factor: Value | None = None
        """The factor that was read last, on which it depends whether a number behind it multiplies."""

    # Tokens

    def peek(self, ahead: int = 0) -> Token:
        place = self.place + ahead
        return self.tokens[place] if place < len(self.tokens) else END

    def take(self) -> Token:
        token = self.peek()
        if token is END:
            raise UnreadableError("the answer ends too early")
        self.place += 1
        return token

    def at_end(self) -> bool:
        return self.place >= len(self.tokens)

    def is_next(self, kind: str, *texts: str) -> bool:
        token = self.peek()
        return token.kind == kind and token.text in texts

    def accept(self, kind: str, *texts: str) -> bool:
        """Take such a token; whether there was one."""
        found = self.is_next(kind, *texts)
        self.place += found
        return found

    def expect(self, kind: str, *texts: str) -> Token:
        token = self.take()
        if token.kind != kind or token.text not in texts:
            raise UnreadableError(f"{token.text!r} stands where {' or '.join(texts)} is expected")
        return token

    def raw_group(self) -> str:
        """The next token or group as text, for names."""
        if not self.is_next("mark", "{"):
            return self.take().text
        depth, texts = 0, list[str]()
        while True:
            token = self.take()
            depth += (token.text == "{") - (token.text == "}")
            if depth == 0:
                return "".join(texts[1:])
            texts.append(token.text)

    # Lists

    def whole(self) -> Value:
        self._skip_phrase()
        if self.peek().kind in ("mark", "name") and words.RELATIONS.get(self.peek().text) in ("=", "~"):
            self.take()  # = 5 and \approx 5, whose left side stands in front of the answer
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

    def items(self) -> Value:
        found, joiner = [self.relation()], ","
        while True:
            joined = self._separator()
            if joined is None or (self.at_end() and joined == ","):
                break
            joiner = joined if joined != "," else joiner
            found.append(self._dots() or self.relation())
        return found[0] if len(found) == 1 else Items(tuple(found), joiner)

    def _dots(self) -> Value | None:
        """Dots in place of an item."""
        return DOTS if self.accept("name", "ldots", "dots", "cdots") else None

    def _separator(self) -> str | None:
        joined = "," if self.accept("mark", ",", ";") else None
        token = self.peek()
        if token.kind == "joiner" or (token.kind == "name" and token.text in words.JOINERS):
            joined = words.JOINERS[self.take().text]
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
            left = SetExpr(operator, (left, self._set_operand()))
        return left

    def _set_operand(self) -> Value:
        start = self.place
        value = self._labelled() or self.sum()
        parts = [value]
        while self.peek().text in (":", "colon") and not self.in_set:
            self.take()
            parts.append(self._dots() or self.sum())
        if len(parts) == 1:
            return value
        plain = [part for part in parts if isinstance(part, EXPRESSIONS)]
        if len(plain) != len(parts):
            raise UnreadableError("a ratio has numbers")
        return Ratio(tuple(plain), "".join(token.text for token in self.tokens[start : self.place]))

    def _labelled(self) -> Value | None:
        """Upright words where a value is expected: the name of a quantity before =, or an answer in words."""
        token, follows = self.peek(), self.peek(1)
        if token.kind != "word":
            return None
        if follows.text in words.RELATIONS:
            self.take()
            return Sym(token.text.lower())
        if follows.kind in ("end", "joiner") or follows.text in (",", ";", ")", "}"):
            self.take()
            return names.word_value(token.text)
        return None

    # Sums and products

    def _enter(self) -> None:
        self._depth += 1
        if self._depth > 2 * MAX_NESTING:
            raise TooLargeError(f"the answer is nested deeper than {MAX_NESTING}")

    def sum(self) -> Value:
        self._enter()
        value = self._signed_term()
        while self.peek().text in ("+", "-", "pm", "mp"):
            value = build.add(value, self._signed_term())
        if self.is_next("name", "over", "choose"):
            name = self.take().text
            lower = self.sum()
            value = build.fraction(value, lower) if name == "over" else build.call("binom", (value, lower))
        self._depth -= 1
        return value

    def _signed_term(self) -> Value:
        if self.is_next("mark", "+", "-"):
            sign = self.take().text
            inner = self._signed_term() if self.peek().text in ("+", "-") else self._term()
            return build.negate(inner) if sign == "-" else inner
        if self.is_next("name", "pm", "mp"):
            sign = self._sign(flipped=self.take().text == "mp")
            return build.signed(self._term(), sign)
        return self._term()

    def _sign(self, *, flipped: bool) -> Sign:
        """A sign of its own for each plus-minus; one for all where a minus-plus ties them together."""
        index = 0 if self._has_flipped else self._signs
        self._signs += 1
        if index >= MAX_SIGNS:
            raise TooLargeError(f"the answer has more than {MAX_SIGNS} plus-minus signs")
        return Sign(index, flipped)

    def _term(self) -> Value:
        value = self.factor()
        while True:
            token = self.peek()
            if token.text in _OPERATORS and token.kind in ("mark", "name"):
                if token.text == "/" and quantities.starts_unit(self, 1):
                    break
                value = self._explicit(value, self.take().text)
            elif self.starts_factor():
                value = build.multiply(value, self.factor())
            else:
                break
        return quantities.with_unit(self, value)

    def _explicit(self, value: Value, operator: str) -> Value:
        if self.peek().text == "-":
            self.take()
            right = build.negate(self.factor())
        else:
            right = self.factor()
        if operator in ("/", "div"):
            return build.fraction(value, right)
        return build.call("mod", (value, right)) if operator in ("bmod", "mod") else build.multiply(value, right)

    # Factors

    def starts_factor(self) -> bool:
        """Whether a factor may begin here without a multiplication sign before it."""
        token = self.peek()
        if token.kind == "number":
            return self._may_multiply(token)
        if token.kind == "mark":
            return token.text in ("(", "[", "{") or (token.text == "|" and not self.bars)
        return token.kind in ("letter", "digits") or (token.kind == "name" and token.text in _STARTING_NAMES)

    def _may_multiply(self, number: Token) -> bool:
        """Whether a number stands behind what it can only multiply: 4 2 is no product, and neither x2 nor 2^3 2 is surely one."""
        before = self.tokens[self.place - 1] if self.place else number
        if before.kind != "number" and before.text in (")", "}", "]", "pi"):
            return True
        last = self._last_factor
        if isinstance(last, Pow):
            return not isinstance(last.exponent, Num)
        return last == IMAGINARY or (isinstance(last, Call) and last.name == "root" and number.spaced)

    def factor(self) -> Value:
        """An atom with its powers, factorials, percent and degree signs."""
        self._enter()
        self._last_factor = postfix.with_postfixes(self, self._atom())
        self._depth -= 1
        return self._last_factor

    def argument(self) -> Value:
        """What a command or `^` takes: a group in braces, or one token; a number in ^12 counts whole, and -1 in ^-1 too."""
        if self.is_next("mark", "{"):
            return brackets.braces(self)
        if self.is_next("mark", "-", "+"):
            sign = self.take().text
            inner = self.argument()
            return build.negate(inner) if sign == "-" else inner
        return self._atom()

    def token_argument(self) -> Value:
        """A group or one token; of a number, one digit, as TeX takes it."""
        return numbers.first_digit(self) or self.argument()

    def _atom(self) -> Value:
        token = self.take()
        if token.kind not in _ATOMS:
            raise UnreadableError(f"{token.text!r} is not expected there")
        return _ATOMS[token.kind](self, token)


_ATOMS = {
    "number": numbers.number,
    "digits": numbers.digits,
    "letter": names.letter,
    "set": names.named_set,
    "name": names.name,
    "mark": brackets.mark,
}
