"""Exact rational arithmetic on trees, within bounds that are checked before anything is computed."""

import math
from fractions import Fraction

from oprime_verifier.math.tree.build import replaced
from oprime_verifier.math.tree.values import MINUS_ONE, Add, Call, Expr, Mul, Num, Pow, Sym, TooLargeError

MAX_BITS = 13_300
"""About 4,000 decimal digits."""
MAX_FACTORIAL = 1400
MAX_TERMS = 1000
"""Of all sums and products of one answer together, nested ones and neighbours."""


class UndefinedError(ValueError):
    """The expression has no value, such as 1/0."""


class Budget:
    """Terms that may still be computed."""

    def __init__(self, terms: int = MAX_TERMS) -> None:
        self.terms = terms

    def allows(self, terms: int) -> bool:
        """Take terms from the budget, if so many are left."""
        if terms > self.terms:
            return False
        self.terms -= terms
        return True


def summed(tree: Call, budget: Budget) -> Expr:
    """A sum or product over an index as its value, where its bounds are numbers and the budget allows it."""
    try:
        value = rational(tree, budget)
    except (UndefinedError, TooLargeError, RecursionError):
        return tree
    return tree if value is None else Num(value)


def rational(tree: Expr, budget: Budget | None = None) -> Fraction | None:
    """The exact rational value; None where the tree has none that arithmetic finds, as for sums without a budget.

    Raises UndefinedError for a division by zero and TooLargeError for a number beyond the bound.
    """
    if isinstance(tree, Num):
        return tree.value
    if isinstance(tree, Add):
        parts = _all(tree.terms, budget)
        return None if parts is None else sum(parts, Fraction(0))
    if isinstance(tree, Mul):
        parts = _all(_without_large_factorials(tree.factors), budget)
        return None if parts is None else _product(parts)
    if isinstance(tree, Pow):
        pair = _all((tree.base, tree.exponent), budget)
        return None if pair is None else power(*pair)
    return _call(tree, budget) if isinstance(tree, Call) else None


def _all(trees: tuple[Expr, ...], budget: Budget | None) -> list[Fraction] | None:
    found: list[Fraction] = []
    for tree in trees:
        value = rational(tree, budget)
        if value is None:
            return None
        found.append(value)
    return found


def _without_large_factorials(factors: tuple[Expr, ...]) -> tuple[Expr, ...]:
    """The factors, with a quotient of two large factorials that lie close together as the product between them."""
    above = [factor for factor in factors if isinstance(factor, Call) and _large_factorial(factor)]
    below = [factor for factor in factors if isinstance(factor, Pow) and factor.exponent == MINUS_ONE and _large_factorial(factor.base)]
    if len(above) != 1 or len(below) != 1:
        return factors
    high, low = _large_factorial(above[0]), _large_factorial(below[0].base)
    if abs(high - low) > MAX_TERMS:
        return factors
    between = _product([Fraction(number) for number in range(min(high, low) + 1, max(high, low) + 1)])
    rest = tuple(factor for factor in factors if factor is not above[0] and factor is not below[0])
    return (*rest, Num(between if high >= low else 1 / between))


def _large_factorial(tree: Expr) -> int:
    """n of an n! that is too large to compute; 0 for anything else."""
    if not (isinstance(tree, Call) and tree.name == "factorial" and isinstance(tree.args[0], Num)):
        return 0
    value = tree.args[0].value
    return int(value) if value.denominator == 1 and MAX_FACTORIAL < value < 10**12 else 0


def _product(parts: list[Fraction]) -> Fraction:
    value = Fraction(1)
    for part in parts:
        value *= part
        _bounded(value)
    return value


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise TooLargeError("a number is too large to compute")
    return value


def power(base: Fraction, exponent: Fraction) -> Fraction | None:
    """base ** exponent where that is rational; a real root of a negative number where the root is odd."""
    if exponent.denominator != 1:
        root = exact_root(base, exponent.denominator)
        return None if root is None else power(root, Fraction(exponent.numerator))
    if base == 0:
        if exponent <= 0:
            raise UndefinedError("a division by zero, or 0^0")
        return Fraction(0)
    if abs(base) == 1:
        return Fraction(-1) if base < 0 and exponent.numerator % 2 else Fraction(1)
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if bits * abs(exponent.numerator) > 2 * MAX_BITS:
        raise TooLargeError("a power is too large to compute")
    return _bounded(base**exponent.numerator)


def exact_root(value: Fraction, degree: int) -> Fraction | None:
    """The rational real root of this degree, if there is one."""
    if value < 0:
        inner = exact_root(-value, degree) if degree % 2 else None
        return None if inner is None else -inner
    if degree > 64:
        return value if value in (0, 1) else None
    upper, lower = _integer_root(value.numerator, degree), _integer_root(value.denominator, degree)
    return None if upper is None or lower is None else Fraction(upper, lower)


def _integer_root(value: int, degree: int) -> int | None:
    if value < 2:
        return value
    if degree == 2:
        root = math.isqrt(value)
        return root if root * root == value else None
    low, high = 1, 1 << (value.bit_length() // degree + 1)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle**degree <= value else (low, middle - 1)
    return low if low**degree == value else None


def _call(tree: Call, budget: Budget | None) -> Fraction | None:
    if tree.name in ("sum", "prod"):
        return None if budget is None else _repeated(tree, budget)
    if tree.name not in _FUNCTIONS:
        return None
    arguments = _all(tree.args, budget)
    if arguments is None:
        return None
    count, function = _FUNCTIONS[tree.name]
    if count == 0 and len(arguments) == 1:
        return arguments[0]
    return function(*arguments) if count in (0, len(arguments)) else None


def _repeated(tree: Call, budget: Budget) -> Fraction | None:
    body, index, low, high = tree.args
    start, stop = rational(low, budget), rational(high, budget)
    if start is None or stop is None or start.denominator != 1 or stop.denominator != 1 or not isinstance(index, Sym):
        return None
    if not budget.allows(max(0, int(stop - start) + 1)):
        return None
    plain: list[Fraction] = []
    for number in range(int(start), int(stop) + 1):
        value = rational(replaced(body, index, Num(Fraction(number))), budget)
        if value is None:
            return None
        plain.append(value)
    return _product(plain) if tree.name == "prod" else sum(plain, Fraction(0))


def _root(value: Fraction, degree: Fraction) -> Fraction | None:
    return exact_root(value, int(degree)) if degree.denominator == 1 and degree > 0 else None


def _factorial(value: Fraction) -> Fraction | None:
    if value.denominator != 1 or value < 0:
        return None
    if value > MAX_FACTORIAL:
        raise TooLargeError("a factorial is too large to compute")
    return Fraction(math.factorial(int(value)))


def _double_factorial(value: Fraction) -> Fraction | None:
    if value.denominator != 1 or value < 0:
        return None
    if value > 2400:
        raise TooLargeError("a factorial is too large to compute")
    return Fraction(math.prod(range(int(value), 0, -2)))


def _binomial(upper: Fraction, lower: Fraction) -> Fraction | None:
    if upper.denominator != 1 or lower.denominator != 1 or upper < 0:
        return None
    smaller = min(lower, upper - lower)
    if smaller > 0 and smaller * upper.numerator.bit_length() > MAX_BITS:
        raise TooLargeError("a binomial coefficient is too large to compute")
    return Fraction(math.comb(int(upper), int(lower))) if lower >= 0 else Fraction(0)


def _mod(value: Fraction, modulus: Fraction) -> Fraction:
    if modulus == 0:
        raise UndefinedError("a division by zero")
    return value % modulus


def _gcd(*values: Fraction) -> Fraction | None:
    return Fraction(math.gcd(*(int(value) for value in values))) if all(value.denominator == 1 for value in values) else None


def _lcm(*values: Fraction) -> Fraction | None:
    return Fraction(math.lcm(*(int(value) for value in values))) if all(value.denominator == 1 for value in values) else None


def _log(value: Fraction, base: Fraction) -> Fraction | None:
    """A rational logarithm of one small power in another."""
    if value <= 0 or base <= 0 or base == 1:
        raise UndefinedError("a logarithm without a value")
    if value == 1:
        return Fraction(0)
    size = abs(math.log(abs(value.numerator)) - math.log(value.denominator))
    scale = abs(math.log(base.numerator) - math.log(base.denominator))
    guess = Fraction(size / scale).limit_denominator(60)
    for exponent in (guess, -guess):
        if (
            abs(exponent.numerator) < 4000
            and exponent
            and power(base, Fraction(exponent.numerator)) == power(value, Fraction(exponent.denominator))
        ):
            return exponent
    return None


_FUNCTIONS = {
    "root": (2, _root),
    "abs": (1, abs),
    "floor": (1, lambda value: Fraction(math.floor(value))),
    "ceil": (1, lambda value: Fraction(math.ceil(value))),
    "factorial": (1, _factorial),
    "factorial2": (1, _double_factorial),
    "binom": (2, _binomial),
    "mod": (2, _mod),
    "gcd": (0, _gcd),
    "lcm": (0, _lcm),
    "max": (0, max),
    "min": (0, min),
    "sign": (1, lambda value: Fraction((value > 0) - (value < 0))),
    "conj": (1, lambda value: value),
    "re": (1, lambda value: value),
    "logb": (2, _log),
}
