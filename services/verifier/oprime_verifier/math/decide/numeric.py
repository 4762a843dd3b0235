"""Values of expressions to many digits, with every step's size checked before it is taken."""

import random
import threading
from collections.abc import Callable, Mapping
from typing import Any

from mpmath.ctx_mp import MPContext

from oprime_verifier.math.tree.exact import UndefinedError
from oprime_verifier.math.tree.values import Add, Call, Const, Expr, Mul, Num, Pow, Sym, TooLargeError, free_symbols

MAX_EXPONENT_BITS = 200_000
MAX_ANGLE_BITS = 20_000
MAX_GAMMA = 10**6
MAX_GAMMA_DIGITS, MAX_PRECISE_GAMMA = 500, 3000
MAX_TERMS = 300

Number = Any
"""An mpf or mpc; mpmath has no types."""

_local = threading.local()


class NoNumberError(ValueError):
    """The expression has a part that has no numeric rule."""


class HugeError(TooLargeError):
    """A value is beyond any number that is computed."""


def context(digits: int) -> MPContext:
    """This thread's arithmetic, set to `digits` digits."""
    if not hasattr(_local, "context"):
        _local.context = MPContext()
    _local.context.dps = digits
    return _local.context


class Evaluator:
    def __init__(self, digits: int, point: Mapping[str, Number], *, chance: str = "", real: bool = False) -> None:
        """`chance` seeds the values of functions of which nothing is known. With `real`, roots and logarithms of negative numbers that
        depend on a variable have no value.
        """
        self.mp = context(digits)
        self.point = dict(point)
        self.chance, self.real = chance, real
        self.tiny = self.mp.mpf(10) ** (-digits // 2)
        self.terms = 0

    def value(self, tree: Expr) -> Number:  # noqa: PLR0911 - one line for each kind of node
        """Raises UndefinedError, NoNumberError and HugeError."""
        if isinstance(tree, Num):
            return self.mp.mpf(tree.value.numerator) / tree.value.denominator
        if isinstance(tree, Sym):
            return self._symbol(tree.name)
        if isinstance(tree, Const):
            return self._constant(tree.name)
        if isinstance(tree, Add):
            return self.mp.fsum([self.value(term) for term in tree.terms])
        if isinstance(tree, Mul):
            return self._product(tree)
        if isinstance(tree, Pow):
            return self._raised(tree)
        return self._call(tree) if isinstance(tree, Call) else self._unknown(type(tree).__name__)

    def _unknown(self, name: str) -> Number:
        raise NoNumberError(f"{name} has no numeric rule")

    def _symbol(self, name: str) -> Number:
        if name not in self.point:
            raise NoNumberError(f"{name} has no value")
        return self.point[name]

    def _constant(self, name: str) -> Number:
        found = {"pi": self.mp.pi, "e": self.mp.e, "i": self.mp.j}.get(name)
        return self._unknown(name) if found is None else +found

    def _product(self, tree: Mul) -> Number:
        found = self.mp.mpf(1)
        for factor in tree.factors:
            found *= self.value(factor)
        return found

    # Powers

    def _raised(self, tree: Pow) -> Number:
        found = self.power(self.value(tree.base), self.value(tree.exponent))
        return self._real(tree.base, found) if self.real else found

    def _real(self, inner: Expr, found: Number) -> Number:
        """What was found, unless it is imaginary because of a variable."""
        if self.mp.im(found) != 0 and abs(self.mp.im(found)) > self.tiny * abs(found) and free_symbols(inner):
            raise UndefinedError("no real value")
        return found

    def power(self, base: Number, exponent: Number) -> Number:
        mp = self.mp
        base = mp.re(base) if mp.im(base) == 0 else base
        if base == 0:
            if mp.re(exponent) < 0:
                raise UndefinedError("a division by zero")
            return mp.mpf(1) if exponent == 0 else mp.mpf(0)
        self._check_power(base, exponent)
        if mp.im(base) == 0 and mp.im(exponent) == 0 and base < 0 and not mp.isint(exponent):
            return self._real_power(mp.re(base), mp.re(exponent))
        return mp.power(base, exponent)

    def _check_power(self, base: Number, exponent: Number) -> None:
        mp = self.mp
        if mp.mag(exponent) > 64 and abs(base) != 1:
            raise HugeError("a power is too large to compute")
        # A base near one keeps small what its exponent does not.
        if abs(base) != 1 and abs(mp.re(exponent)) * abs(mp.log(abs(base), 2)) > MAX_EXPONENT_BITS:
            raise HugeError("a power is too large to compute")

    def _real_power(self, base: Number, exponent: Number) -> Number:
        """The real value of a negative number's root where the root is odd, as in (-8)^(1/3)."""
        for degree in range(3, 20, 2):
            upper = exponent * degree
            nearest = self.mp.nint(upper)
            if abs(upper - nearest) < self.tiny:
                root = -self.mp.power(-base, exponent)
                return root if int(nearest) % 2 else -root
        return self.mp.power(self.mp.mpc(base), exponent)

    # Functions

    def _call(self, tree: Call) -> Number:
        if tree.name in ("sum", "prod"):
            return self._repeated(tree)
        values = [self.value(argument) for argument in tree.args] if (tree.name, len(tree.args)) in _RULES or tree.name[0] == "@" else []
        rule = _RULES.get((tree.name, len(tree.args)))
        if rule is None:
            return self._arbitrary(tree.name, values) if values else self._unknown(tree.name)
        try:
            found = rule(self, *values)
            return self._real(tree.args[0], found) if self.real and tree.name in _BRANCHING else found
        except (ValueError, ZeroDivisionError, OverflowError) as error:
            if isinstance(error, UndefinedError | NoNumberError | TooLargeError):
                raise
            raise UndefinedError(f"{tree.name} has no value there") from error

    def _arbitrary(self, name: str, values: list[Number]) -> Number:
        """A value of a function of which nothing is known: the same for the same arguments, and another one for others.

        It jumps between arguments whose first digits differ and rises between others, so that f(1) differs from f(1 + 10^-20) by as little.
        """
        shown = ",".join(f"{self.mp.nstr(self.mp.re(value), 15)};{self.mp.nstr(self.mp.im(value), 15)}" for value in values)
        chance = random.Random(f"{name}({shown}){self.chance}")  # noqa: S311 - must be repeatable, not secret
        return self.mp.mpf(chance.randint(101, 4000)) / 997 + self.mp.fsum(value * (7 + place) / 11 for place, value in enumerate(values))

    def _repeated(self, tree: Call) -> Number:
        body, index, low, high = tree.args
        if high == Const("inf") or not isinstance(index, Sym):
            raise NoNumberError("an infinite sum")
        start, stop = self.value(low), self.value(high)
        if not (self.mp.isint(start) and self.mp.isint(stop)):
            raise UndefinedError("an index that is no integer")
        # One budget for the whole expression: nested sums multiply.
        self.terms += max(0, int(stop - start) + 1) if stop - start <= MAX_TERMS else MAX_TERMS + 1
        if self.terms > MAX_TERMS:
            raise HugeError("a sum or product is too long to compute")
        outer = dict(self.point)
        values: list[Number] = []
        for number in range(int(start), int(stop) + 1):
            self.point[index.name] = self.mp.mpf(number)
            values.append(self.value(body))
        self.point = outer
        return self.mp.fsum(values) if tree.name == "sum" else self.mp.fprod(values)

    def angle(self, value: Number) -> Number:
        if self.mp.mag(value) > MAX_ANGLE_BITS:
            raise HugeError("an angle is too large to compute")
        if self.mp.im(value) != 0 and abs(self.mp.im(value)) > MAX_EXPONENT_BITS:
            raise HugeError("an angle is too large to compute")
        # Reduced exactly, so that sin(10^22) is not noise.
        return value

    def inverse(self, value: Number) -> Number:
        if abs(value) < self.tiny:
            raise UndefinedError("a division by zero")
        return 1 / value

    def root(self, value: Number, degree: Number) -> Number:
        if not self.mp.isint(degree) or degree <= 0:
            return self.power(value, self.inverse(degree))
        if self.mp.im(value) == 0 and self.mp.re(value) < 0 and int(degree) % 2:
            return -self.mp.root(-self.mp.re(value), int(degree))
        return self.mp.sqrt(value) if degree == 2 else self.power(value, 1 / degree)

    def gamma(self, value: Number) -> Number:
        if abs(value) > MAX_GAMMA or (self.mp.dps > MAX_GAMMA_DIGITS and abs(value) > MAX_PRECISE_GAMMA):
            raise HugeError("a factorial is too large to compute")
        return self.mp.gamma(value)

    def factorial(self, value: Number) -> Number:
        return self.gamma(value + 1)

    def double_factorial(self, value: Number) -> Number:
        if not self.mp.isint(value) or value < -1:
            raise NoNumberError("a double factorial of what is no natural number")
        if value > MAX_PRECISE_GAMMA:
            raise HugeError("a factorial is too large to compute")
        return self.mp.fac2(value)

    def binomial(self, upper: Number, lower: Number) -> Number:
        if max(abs(upper), abs(lower)) > MAX_GAMMA:
            raise HugeError("a binomial coefficient is too large to compute")
        return self.mp.binomial(upper, lower)

    def logarithm(self, value: Number, base: Number | None = None) -> Number:
        if value == 0:
            raise UndefinedError("a logarithm of zero")
        return self.mp.ln(value) if base is None else self.mp.ln(value) * self.inverse(self.mp.ln(base))

    def floor(self, value: Number, up: bool = False) -> Number:
        nearest = self.mp.nint(self.mp.re(value))
        if abs(value - nearest) < self.tiny:
            return nearest
        if self.mp.im(value) != 0:
            raise UndefinedError("rounding a complex number")
        return self.mp.ceil(value) if up else self.mp.floor(value)

    def modulo(self, value: Number, modulus: Number) -> Number:
        return value - modulus * self.floor(value * self.inverse(modulus))


def _hyperbolic(name: str) -> Callable[..., Number]:
    return lambda self, value: getattr(self.mp, name)(self.angle(value) if abs(value) < MAX_EXPONENT_BITS else self._unknown(name))


def _trigonometric(name: str) -> Callable[..., Number]:
    return lambda self, value: getattr(self.mp, name)(self.angle(value))


def _reciprocal(name: str) -> Callable[..., Number]:
    return lambda self, value: self.inverse(getattr(self.mp, name)(self.angle(value)))


def _tangent(self: Evaluator, value: Number) -> Number:
    return self.mp.sin(self.angle(value)) * self.inverse(self.mp.cos(value))


def _cotangent(self: Evaluator, value: Number) -> Number:
    return self.mp.cos(self.angle(value)) * self.inverse(self.mp.sin(value))


_BRANCHING = frozenset({"root", "ln", "log", "logb", "asin", "acos", "acosh", "atanh"})
_RULES: dict[tuple[str, int], Callable[..., Number]] = {
    ("sin", 1): _trigonometric("sin"),
    ("cos", 1): _trigonometric("cos"),
    ("tan", 1): _tangent,
    ("cot", 1): _cotangent,
    ("sec", 1): _reciprocal("cos"),
    ("csc", 1): _reciprocal("sin"),
    ("sinh", 1): _hyperbolic("sinh"),
    ("cosh", 1): _hyperbolic("cosh"),
    ("tanh", 1): _hyperbolic("tanh"),
    ("coth", 1): lambda self, value: self.inverse(_hyperbolic("tanh")(self, value)),
    ("sech", 1): lambda self, value: self.inverse(_hyperbolic("cosh")(self, value)),
    ("csch", 1): lambda self, value: self.inverse(_hyperbolic("sinh")(self, value)),
    ("asin", 1): lambda self, value: self.mp.asin(value),
    ("acos", 1): lambda self, value: self.mp.acos(value),
    ("atan", 1): lambda self, value: self.mp.atan(value),
    ("acot", 1): lambda self, value: self.mp.acot(value),
    ("asec", 1): lambda self, value: self.mp.asec(value),
    ("acsc", 1): lambda self, value: self.mp.acsc(value),
    ("asinh", 1): lambda self, value: self.mp.asinh(value),
    ("acosh", 1): lambda self, value: self.mp.acosh(value),
    ("atanh", 1): lambda self, value: self.mp.atanh(value),
    ("ln", 1): Evaluator.logarithm,
    ("log", 1): Evaluator.logarithm,
    ("logb", 2): Evaluator.logarithm,
    ("root", 2): Evaluator.root,
    ("abs", 1): lambda self, value: abs(value),
    ("floor", 1): Evaluator.floor,
    ("ceil", 1): lambda self, value: self.floor(value, up=True),
    ("factorial", 1): Evaluator.factorial,
    ("factorial2", 1): Evaluator.double_factorial,
    ("Gamma", 1): Evaluator.gamma,
    ("binom", 2): Evaluator.binomial,
    ("mod", 2): Evaluator.modulo,
    ("conj", 1): lambda self, value: self.mp.conj(value),
    ("re", 1): lambda self, value: self.mp.re(value),
    ("im", 1): lambda self, value: self.mp.im(value),
    ("arg", 1): lambda self, value: self.mp.arg(value),
    ("sign", 1): lambda self, value: self.mp.sign(value),
    ("max", 2): lambda self, *values: max(values),
    ("min", 2): lambda self, *values: min(values),
}
