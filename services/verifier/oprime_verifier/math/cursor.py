"""A place in a list of tokens, and what every level of the parser asks of it."""

from oprime_verifier.math.exact import Budget
from oprime_verifier.math.tokens import END, MAX_NESTING, Token
from oprime_verifier.math.values import Sign, TooLargeError, UnreadableError, Value

CLOSING = {"(": (")", "]"), "[": ("]", ")"), "{": ("}",)}
MAX_SIGNS = 3


class Cursor:
    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = list(tokens)
        self.place = 0
        self.depth = 0
        self.bars = 0
        """Absolute values that are open: inside them a bar closes."""
        self.in_set = False
        """Inside braces, where a colon or bar means `such that`."""
        self.budget = Budget()
        self.last_factor: Value | None = None
        """The factor that was read last, on which it depends whether a number behind it multiplies."""
        self._signs = 0
        self._has_flipped = any(token.text == "mp" for token in tokens)

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

    def expect(self, kind: str, *texts: str) -> Token:
        token = self.take()
        if token.kind != kind or token.text not in texts:
            raise UnreadableError(f"{token.text!r} stands where {' or '.join(texts)} is expected")
        return token

    def enter(self) -> None:
        self.depth += 1
        if self.depth > 2 * MAX_NESTING:
            raise TooLargeError(f"the answer is nested deeper than {MAX_NESTING}")

    def leave(self) -> None:
        self.depth -= 1

    def next_sign(self, *, flipped: bool) -> Sign:
        """A sign of its own for each plus-minus; one for all where a minus-plus ties them together."""
        index = 0 if self._has_flipped else self._signs
        self._signs += 1
        if index >= MAX_SIGNS:
            raise TooLargeError(f"the answer has more than {MAX_SIGNS} plus-minus signs")
        return Sign(index, flipped)

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

    # Levels that refer to each other

    def items(self) -> Value:
        raise NotImplementedError

    def relation(self) -> Value:
        raise NotImplementedError

    def sum(self) -> Value:
        raise NotImplementedError

    def factor(self) -> Value:
        raise NotImplementedError

    def argument(self) -> Value:
        raise NotImplementedError

    def token_argument(self) -> Value:
        raise NotImplementedError

    def fraction(self, upper: Value, lower: Value) -> Value:
        raise NotImplementedError

    def starts_factor(self, token: Token) -> bool:
        raise NotImplementedError
