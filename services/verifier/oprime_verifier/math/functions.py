"""Functions by name with their arguments, and sums and products over an index."""

from collections.abc import Callable

from oprime_verifier.math import build, exact, words
from oprime_verifier.math.brackets import Brackets
from oprime_verifier.math.units import make_unit
from oprime_verifier.math.values import (
    DEGREE,
    EULER,
    EXPRESSIONS,
    IMAGINARY,
    Bracketed,
    Call,
    Quantity,
    Relation,
    Sym,
    UnreadableError,
    Value,
    integer,
)

DEGREE_SIGNS = ("circ", "degree", "textdegree")


class Functions(Brackets):
    def _degree_sign(self) -> bool:
        """Take a raised circle, in braces or not."""
        braced = self.is_next("mark", "{")
        token = self.peek(1 if braced else 0)
        if token.text not in DEGREE_SIGNS or (braced and self.peek(2).text != "}"):
            return False
        self.place += 3 if braced else 1
        return True

    def _angle(self, value: Value) -> Value:
        if self.peek().text in ("C", "F") and self.peek().kind in ("letter", "word") and isinstance(value, EXPRESSIONS):
            return Quantity(value, make_unit(((f"degree{self.take().text}", 1),)))
        return build.multiply(value, DEGREE)

    def _root(self) -> Value:
        index: Value = integer(2)
        if self.is_next("mark", "["):
            self.take()
            index = self.sum()
            self.expect("mark", "]")
        return build.call("root", (self.argument(), index))

    def _cube_root(self) -> Value:
        return build.call("root", (self.argument(), integer(3)))

    def _function(self, name: str) -> Value:
        canonical = words.FUNCTION_ALIASES.get(name, name)
        if name == "sqrt":
            return self._root()
        base, exponent = self._decoration(canonical)
        args = self._arguments()
        if exponent == integer(-1) and canonical in words.INVERSES:
            return build.call(words.INVERSES[canonical], args)
        value = _applied_function(canonical, args, base)
        return value if exponent is None else build.power(value, exponent)

    def _decoration(self, name: str) -> tuple[Value | None, Value | None]:
        """Subscript and exponent between a function's name and its argument."""
        base = exponent = None
        for _ in range(2):
            if self.is_next("mark", "_"):
                self.take()
                base = self.argument()
            elif self.is_next("mark", "^"):
                self.take()
                exponent = self.argument()
        if base is not None and name != "log":
            raise UnreadableError(f"{name} has no subscript")
        return base, exponent

    def _arguments(self) -> tuple[Value, ...]:
        if self.peek().text in ("(", "[") or self.is_next("mark", "{"):
            opening = self.take().text
            if opening == "(" and self.peek().text == "[":
                raise UnreadableError("a list in brackets is no argument of a function")
            inner = self._closed(opening) if opening != "{" else self._inside_braces()
            if not isinstance(inner, Bracketed):
                inner = self._extended(inner)
            return inner.items if isinstance(inner, Bracketed) else (inner,)
        return (self._bare_argument(),)

    def _inside_braces(self) -> Value:
        self.place -= 1
        return self._braces()

    def _extended(self, inner: Value) -> Value:
        """sin(x)! does not occur, but the degree sign of sin(30)^o belongs to the angle."""
        if self.peek().text == "^" and self.peek(1).text in ("circ", "{") and "circ" in (self.peek(1).text, self.peek(2).text):
            self.take()
            self._degree_sign()
            return self._angle(inner)
        return inner

    def _bare_argument(self) -> Value:
        """The factors up to a sign, an operator or the next function, as in sin 2x cos x."""
        if self.is_next("mark", "-"):
            self.take()
            return build.negate(self._bare_argument())
        value = self.factor()
        while self.starts_factor(self.peek()) and not (self.peek().kind == "name" and self.peek().text in words.FUNCTIONS):
            value = build.multiply(value, self.factor())
        return value

    def _big(self, name: str) -> Value:
        lower, upper = self._bounds(self.argument)
        if not (isinstance(lower, Relation) and lower.operators == ("=",) and isinstance(lower.sides[0], Sym | type(IMAGINARY)) and upper):
            raise UnreadableError(f"\\{name} needs an index from one value to another")
        body = self._product()
        index = lower.sides[0]
        index = index if isinstance(index, Sym) else Sym("i")
        if index.name == "i" and isinstance(body, EXPRESSIONS):
            body = build.replaced(body, IMAGINARY, index)
        return exact.summed(Call(name, build.numbers(name, (body, index, lower.sides[1], upper))), self.budget)

    def _bounds(self, argument: Callable[[], Value]) -> tuple[Value | None, Value | None]:
        lower = upper = None
        for _ in range(2):
            if self.is_next("mark", "_"):
                self.take()
                lower = argument()
            elif self.is_next("mark", "^"):
                self.take()
                upper = argument()
        return lower, upper

    def _product(self) -> Value:
        value = self.factor()
        while self.starts_factor(self.peek()) or self.peek().text in ("cdot", "times", "*", "/"):
            if self.peek().text in ("cdot", "times", "*", "/"):
                operator = self.take().text
                value = self.fraction(value, self.factor()) if operator == "/" else build.multiply(value, self.factor())
            else:
                value = build.multiply(value, self.factor())
        return value

    def _summation(self) -> Value:
        return self._big("sum")

    def _product_sign(self) -> Value:
        return self._big("prod")


def _unit_complex(angle: Value) -> Value:
    return build.add(build.call("cos", (angle,)), build.multiply(IMAGINARY, build.call("sin", (angle,))))


def _applied_function(name: str, args: tuple[Value, ...], base: Value | None) -> Value:
    if name == "exp" and len(args) == 1:
        return build.power(EULER, args[0])
    if name == "cis" and len(args) == 1:
        return _unit_complex(args[0])
    if name == "cbrt":
        return build.call("root", (*args, integer(3)))
    if name == "lg":
        return build.call("logb", (*args, integer(10)))
    if name == "log" and base is not None:
        return build.call("logb", (*args, base))
    return build.call(name, args)
