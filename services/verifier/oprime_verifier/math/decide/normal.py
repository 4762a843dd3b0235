"""A normal form that proves equality: quotients of polynomials with rational coefficients over independent-looking atoms.

Atoms are variables, pi, i (with i^2 = -1), roots of primes, logarithms of primes, and functions of a normal form. Two equal
normal forms are equal wherever both sides have a value. Two different ones may still be equal: that is for the probe and for
the symbolic process to say.
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from oprime_verifier.math.decide.polynomial import ONE, Monomial, Polynomial, minus, plus, reduced, times, written
from oprime_verifier.math.tree import exact
from oprime_verifier.math.tree.values import Add, Call, Const, Expr, Mul, Num, Pow, Sym, TooLargeError

MAX_POWER = 40
MAX_KEY_CHARS = 10_000
MAX_FACTORED = 10**12
_TURN: Monomial = (("c:i", Fraction(1)), ("c:pi", Fraction(1)))


@dataclass(frozen=True, slots=True)
class Quotient:
    upper: Polynomial
    lower: Polynomial

    @property
    def key(self) -> str:
        """Raises TooLargeError: each root around a root may double it."""
        text = f"{written(self.upper)}/{written(self.lower)}"
        if len(text) > MAX_KEY_CHARS:
            raise TooLargeError("roots or functions are nested too deeply for a normal form")
        return text


class NoNormalFormError(ValueError):
    """The tree has parts for which no normal form is known."""


@lru_cache(maxsize=4096)
def normal(tree: Expr) -> Quotient | None:
    """None where the tree is undefined, too large or of a kind that has no normal form."""
    try:
        return _quotient(tree)
    except (NoNormalFormError, TooLargeError, exact.UndefinedError, RecursionError):
        return None


def same(left: Quotient, right: Quotient) -> bool:
    """Whether the difference is zero in normal form. Raises TooLargeError."""
    return not minus(times(left.upper, right.lower), times(right.upper, left.lower))


def is_polynomial(quotient: Quotient) -> bool:
    """Whether it is a polynomial in variables alone, of which two that differ are different."""
    if set(quotient.lower) != {ONE}:
        return False
    return all(atom.startswith("v:") and power.denominator == 1 and power > 0 for monomial in quotient.upper for atom, power in monomial)


def constant_ratio(left: Quotient, right: Quotient) -> Fraction | None:
    """The number c with left = c * right, if there is one; 0 for a left side that is zero."""
    upper, lower = times(left.upper, right.lower), times(right.upper, left.lower)
    if not upper:
        return Fraction(0)
    if set(upper) != set(lower):
        return None
    first = next(iter(upper))
    ratio = upper[first] / lower[first]
    return ratio if all(upper[monomial] == ratio * lower[monomial] for monomial in upper) else None


def _quotient(tree: Expr) -> Quotient:  # noqa: C901, PLR0911 - one line for each kind of node
    if isinstance(tree, Num):
        return _number(tree.value)
    if isinstance(tree, Sym):
        return _atom(f"v:{tree.name}")
    if isinstance(tree, Const):
        if tree.name in ("inf", "degree"):
            raise NoNormalFormError(tree.name)
        return _atom("E:1") if tree.name == "e" else _atom(f"c:{tree.name}")
    if isinstance(tree, Add):
        return _sum(tree)
    if isinstance(tree, Mul):
        found = _number(Fraction(1))
        for factor in tree.factors:
            found = _multiply(found, _quotient(factor))
        return found
    if isinstance(tree, Pow):
        return _power(tree.base, tree.exponent)
    if isinstance(tree, Call):
        return _function(tree)
    raise NoNormalFormError(type(tree).__name__)


def _number(value: Fraction) -> Quotient:
    return Quotient({ONE: value} if value else {}, {ONE: Fraction(1)})


def _atom(name: str, power: Fraction = Fraction(1)) -> Quotient:
    return Quotient(reduced({((name, power),): Fraction(1)}), {ONE: Fraction(1)})


def _sum(tree: Add) -> Quotient:
    found = _number(Fraction(0))
    for term in tree.terms:
        added = _quotient(term)
        if added.lower == found.lower:
            found = Quotient(plus(found.upper, added.upper), found.lower)
        else:
            upper = plus(times(found.upper, added.lower), times(added.upper, found.lower))
            found = _simple(Quotient(upper, times(found.lower, added.lower)))
    return found


def _multiply(left: Quotient, right: Quotient) -> Quotient:
    return _simple(Quotient(times(left.upper, right.upper), times(left.lower, right.lower)))


def _simple(quotient: Quotient) -> Quotient:
    """With a denominator of one term moved into the numerator."""
    if len(quotient.lower) != 1:
        return quotient
    ((monomial, coefficient),) = quotient.lower.items()
    inverse = {tuple((atom, -power) for atom, power in monomial): 1 / coefficient}
    return Quotient(times(quotient.upper, inverse), {ONE: Fraction(1)})


def _inverse(quotient: Quotient) -> Quotient:
    if not quotient.upper:
        raise exact.UndefinedError("a division by zero")
    return _simple(Quotient(quotient.lower, quotient.upper))


def _power(base: Expr, exponent: Expr) -> Quotient:
    whole = exact.rational(exponent)
    if whole is not None and whole.denominator == 1:
        return _integer_power(_quotient(base), int(whole))
    if whole is not None:
        return _root_of(_quotient(base), whole)
    return _symbolic_power(base, exponent)


def _integer_power(quotient: Quotient, exponent: int) -> Quotient:
    if abs(exponent) > MAX_POWER and (len(quotient.upper) > 1 or len(quotient.lower) > 1):
        raise TooLargeError("a power of a sum is too large to expand")
    if exponent < 0:
        quotient, exponent = _inverse(quotient), -exponent
    if len(quotient.upper) == 1 and len(quotient.lower) == 1:
        return _monomial_power(quotient, Fraction(exponent))
    found = _number(Fraction(1))
    while exponent:
        if exponent & 1:
            found = _multiply(found, quotient)
        exponent >>= 1
        quotient = _multiply(quotient, quotient) if exponent else quotient
    return found


def _monomial_power(quotient: Quotient, exponent: Fraction) -> Quotient:
    ((monomial, coefficient),) = quotient.upper.items()
    ((_, divisor),) = quotient.lower.items()
    number = exact.power(coefficient / divisor, exponent)
    if number is None:
        raise NoNormalFormError("a root")
    if abs(exponent) > 10**6:
        raise TooLargeError("a power is too large to expand")
    return Quotient(reduced({tuple((atom, power * exponent) for atom, power in monomial): number}), {ONE: Fraction(1)})


def _root_of(quotient: Quotient, exponent: Fraction) -> Quotient:
    """A fractional power: of a number, roots of its primes; of anything else, an atom of its own."""
    number = _constant(quotient)
    if number is not None:
        return _number_root(number, exponent)
    if not quotient.upper:
        return quotient
    whole = exponent.numerator // exponent.denominator
    part = exponent - whole
    atom = _atom(f"p:{quotient.key}", part)
    return _multiply(_integer_power(quotient, whole), atom) if whole else atom


def _constant(quotient: Quotient) -> Fraction | None:
    if not quotient.upper:
        return Fraction(0)
    if set(quotient.upper) == {ONE} and set(quotient.lower) == {ONE}:
        return quotient.upper[ONE] / quotient.lower[ONE]
    return None


def _number_root(number: Fraction, exponent: Fraction) -> Quotient:
    if number == 0:
        if exponent < 0:
            raise exact.UndefinedError("a division by zero")
        return _number(number)
    sign = _number(Fraction(1))
    if number < 0:
        if exponent.denominator == 2:
            sign = _integer_power(_atom("c:i"), exponent.numerator)
        elif exponent.denominator % 2:
            sign = _number(Fraction(-1 if exponent.numerator % 2 else 1))
        else:
            raise NoNormalFormError("an even root of a negative number")
    found = sign
    for part, way in ((abs(number.numerator), 1), (number.denominator, -1)):
        for prime, power in _factors(part):
            found = _multiply(found, _atom(f"n:{prime}", power * exponent * way))
    return found


@lru_cache(maxsize=4096)
def _factors(number: int) -> tuple[tuple[int, int], ...]:
    """Factors of a number: primes where trial division finds them, and one rest that may be composite."""
    found: list[tuple[int, int]] = []
    divisor = 2
    while divisor * divisor <= number and divisor < 3000:
        power = 0
        while number % divisor == 0:
            number //= divisor
            power += 1
        if power:
            found.append((divisor, power))
        divisor += 1 if divisor == 2 else 2
    if number > 1:
        root = exact.exact_root(Fraction(number), 2)
        found.append((number, 1) if root is None else (int(root), 2))
    return tuple(found)


def _symbolic_power(base: Expr, exponent: Expr) -> Quotient:
    """base^(c1*m1 + c2*m2 + ...) as a product of one atom for each monomial m."""
    if base == Const("e") and isinstance(exponent, Call) and exponent.name == "ln":
        return _quotient(exponent.args[0])
    powers = _quotient(exponent)
    if set(powers.lower) != {ONE}:
        return _atom(f"P:{_quotient(base).key}^{powers.key}")
    below = _quotient(base)
    number = _constant(below)
    bases = (
        [(f"v#{below.key}", Fraction(1))]
        if number is None or number <= 0
        else [(f"n#{p}", Fraction(q)) for p, q in _signed_factors(number)]
    )
    if base == Const("e"):
        bases = [("E#", Fraction(1))]
    found = _number(Fraction(1))
    for monomial, coefficient in powers.upper.items():
        scale = coefficient / powers.lower[ONE]
        if base == Const("e") and monomial == _TURN and (rotation := _rotation(scale / 2)) is not None:
            found = _multiply(found, rotation)
            continue
        if monomial == ONE:
            found = _multiply(found, _power(base, Num(scale)))
            continue
        for name, share in bases:
            found = _multiply(found, _atom(f"{name}^{written({monomial: Fraction(1)})}", scale * share))
    return found


def _signed_factors(number: Fraction) -> list[tuple[int, int]]:
    return [*_factors(number.numerator), *((prime, -power) for prime, power in _factors(number.denominator))]


_EVEN = frozenset({"cos", "sec", "cosh", "abs"})
_ODD = frozenset({"sin", "tan", "cot", "csc", "sinh", "tanh", "asin", "atan", "asinh", "atanh"})


def _function(tree: Call) -> Quotient:
    value = exact.rational(tree)
    if value is not None:
        return _number(value)
    if tree.name == "root":
        degree = exact.rational(tree.args[1])
        if degree is not None and degree.denominator == 1 and 0 < degree <= 64:
            return _root_of(_quotient(tree.args[0]), 1 / degree)
        raise NoNormalFormError("a root of an unknown degree")
    if tree.name in ("ln", "log") and len(tree.args) == 1:
        return _logarithm(tree.name, tree.args[0])
    if tree.name == "logb":
        return _multiply(_logarithm("ln", tree.args[0]), _inverse(_logarithm("ln", tree.args[1])))
    if tree.name in ("sin", "cos", "tan") and (known := _known_angle(tree)) is not None:
        return known
    if tree.name in ("sum", "prod", "lim", "int"):
        raise NoNormalFormError(tree.name)
    return _opaque(tree.name, [_quotient(argument) for argument in tree.args])


def _opaque(name: str, arguments: list[Quotient]) -> Quotient:
    if len(arguments) == 1 and name in _EVEN | _ODD and _leads_negative(arguments[0]):
        flipped = Quotient({monomial: -value for monomial, value in arguments[0].upper.items()}, arguments[0].lower)
        found = _atom(f"f:{name}({flipped.key})")
        return found if name in _EVEN else _multiply(_number(Fraction(-1)), found)
    return _atom(f"f:{name}({','.join(argument.key for argument in arguments)})")


def _leads_negative(quotient: Quotient) -> bool:
    return bool(quotient.upper) and quotient.upper[min(quotient.upper)] < 0


def _logarithm(name: str, argument: Expr) -> Quotient:
    if name == "ln" and argument == Const("e"):
        return _number(Fraction(1))
    quotient = _quotient(argument)
    number = _constant(quotient)
    if number is None:
        if name == "ln" and isinstance(argument, Pow) and argument.base == Const("e") and not _has_imaginary(argument):
            return _quotient(argument.exponent)
        return _atom(f"f:{name}({quotient.key})")
    if number <= 0:
        raise NoNormalFormError("a logarithm of what is not positive")
    found = _number(Fraction(0))
    for prime, power in _signed_factors(number):
        added = _multiply(_number(Fraction(power)), _atom(f"f:{name}({prime})"))
        found = Quotient(plus(found.upper, added.upper), found.lower)
    return found


def _has_imaginary(tree: Expr) -> bool:
    return "c:i" in _quotient(tree.exponent).key if isinstance(tree, Pow) else False


def _known_angle(tree: Call) -> Quotient | None:
    """Sine, cosine and tangent of multiples of pi/12 that have square roots alone."""
    quotient = _quotient(tree.args[0])
    if not quotient.upper:
        turns = Fraction(0)
    elif set(quotient.upper) == {(("c:pi", Fraction(1)),)} and set(quotient.lower) == {ONE}:
        turns = next(iter(quotient.upper.values())) / quotient.lower[ONE] / 2
    else:
        return None
    if tree.name == "tan":
        sine, cosine = _sine(turns), _sine(turns + Fraction(1, 4))
        return None if sine is None or cosine is None else _multiply(sine, _inverse(cosine))
    return _sine(turns if tree.name == "sin" else turns + Fraction(1, 4))


def _rotation(turns: Fraction) -> Quotient | None:
    """e^(2 pi i turns) as cosine and sine, where those have square roots alone."""
    sine, cosine = _sine(turns), _sine(turns + Fraction(1, 4))
    if sine is None or cosine is None:
        return None
    return Quotient(plus(cosine.upper, times(sine.upper, _atom("c:i").upper)), {ONE: Fraction(1)})


def _sine(turns: Fraction) -> Quotient | None:
    turns %= 1
    if turns >= Fraction(1, 2):
        found = _sine(turns - Fraction(1, 2))
        return None if found is None else _multiply(_number(Fraction(-1)), found)
    turns = min(turns, Fraction(1, 2) - turns)
    half = _number(Fraction(1, 2))
    table = {
        Fraction(0): _number(Fraction(0)),
        Fraction(1, 12): half,
        Fraction(1, 8): _multiply(half, _atom("n:2", Fraction(1, 2))),
        Fraction(1, 6): _multiply(half, _atom("n:3", Fraction(1, 2))),
        Fraction(1, 4): _number(Fraction(1)),
    }
    return table.get(turns)
