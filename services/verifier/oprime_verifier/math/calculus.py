"""Definite integrals and limits. They are read into the tree here; their values are found by the symbolic process alone."""

from oprime_verifier.math import build, words
from oprime_verifier.math.functions import Functions
from oprime_verifier.math.tokens import Token
from oprime_verifier.math.values import EULER, IMAGINARY, Sym, UnreadableError, Value, integer

_ARROWS = ("to", "rightarrow", "->")
_SIDES = {("^", "+"): 1, ("^", "-"): -1, ("^", "{", "+", "}"): 1, ("^", "{", "-", "}"): -1}


class Calculus(Functions):
    def _integral(self) -> Value:
        # Without braces a bound is one token, so that a number may follow: the 2 of \int_0^1 2x dx is no part of the bound.
        lower, upper = self._bounds(self.token_argument)
        if lower is None or upper is None:
            raise UnreadableError("an integral without bounds is no single value")
        stop = self._differential()
        body = integer(1) if self.place == stop else self._sum_until(stop)
        self.place = stop + 1
        return build.call("int", (body, self._variable(), lower, upper))

    def _differential(self) -> int:
        """Place of the d that belongs to this integral and not to one inside it."""
        depth = inner = 0
        for place in range(self.place, len(self.tokens) - 1):
            token = self.tokens[place]
            depth += (token.text in ("(", "[", "{")) - (token.text in (")", "]", "}"))
            if depth < 0:
                break
            if depth == 0 and token.kind == "name" and token.text == "int":
                inner += 1
            elif depth == 0 and token.kind == "letter" and token.text == "d" and _is_variable(self.tokens[place + 1]):
                if inner == 0:
                    return place
                inner -= 1
        raise UnreadableError("an integral needs its dx")

    def _variable(self) -> Sym:
        token = self.take()
        if not _is_variable(token):
            raise UnreadableError(f"{token.text!r} is no variable of an integral or limit")
        return Sym(token.text)

    def _sum_until(self, stop: int) -> Value:
        """A sum that ends at a place."""
        tokens, self.tokens = self.tokens, self.tokens[:stop]
        value = self.sum()
        if not self.at_end():
            raise UnreadableError(f"{self.peek().text!r} is not expected there")
        self.tokens = tokens
        return value

    def _limit(self) -> Value:
        self.expect("mark", "_")
        self.expect("mark", "{")
        variable = self._variable()
        if self.take().text not in _ARROWS:
            raise UnreadableError("a limit goes to a value")
        closing = self._closing_brace()
        side, length = self._side_of_limit(closing)
        target = self._sum_until(closing - length)
        self.place = closing + 1
        return build.call("lim", (self._product(), variable, target, integer(side)))

    def _closing_brace(self) -> int:
        depth = 0
        for place in range(self.place, len(self.tokens)):
            depth += (self.tokens[place].text == "{") - (self.tokens[place].text == "}")
            if depth < 0:
                return place
        raise UnreadableError("a brace is not closed")

    def _side_of_limit(self, closing: int) -> tuple[int, int]:
        """From where the variable comes, 0 for both sides, and how many tokens say so."""
        for texts, side in _SIDES.items():
            if tuple(token.text for token in self.tokens[closing - len(texts) : closing]) == texts:
                return side, len(texts)
        return 0, 0


def _is_variable(token: Token) -> bool:
    if token.kind == "letter":
        return token.text not in (EULER.name, IMAGINARY.name)
    return token.kind == "name" and token.text in words.GREEK and token.text != "pi"
