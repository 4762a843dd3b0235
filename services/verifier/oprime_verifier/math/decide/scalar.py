"""Equality of two expressions: exact arithmetic, normal form, numeric probe, proof; in order of cost."""

import time
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache

from oprime_verifier.math.decide import probe
from oprime_verifier.math.decide.normal import is_polynomial, normal, same
from oprime_verifier.math.decide.verdicts import Same, is_true
from oprime_verifier.math.options import MathOptions
from oprime_verifier.math.tree import exact
from oprime_verifier.math.tree.build import mapped
from oprime_verifier.math.tree.values import (
    BINDERS,
    INFINITY,
    MINUS_ONE,
    Call,
    Expr,
    Mul,
    Num,
    TooLargeError,
    children,
    free_symbols,
    integer,
    walk,
)

Prove = Callable[[Expr, Expr, float], bool | None]


class Scalars:
    def __init__(self, options: MathOptions, prove: Prove) -> None:
        self.options, self.prove = options, prove
        self._until = time.monotonic() + 2 * options.symbolic_deadline_s
        """When to stop looking for proofs: a list of many expressions is no way around the deadline of one."""

    def same(self, gold: Expr, answer: Expr) -> Same:
        """Whether two expressions have one value wherever both have one."""
        if gold == answer:
            return Same.YES
        if _has_infinity(gold) or _has_infinity(answer):
            return is_true(_infinity(gold) is not None and _infinity(gold) == _infinity(answer))
        if _has_open_logarithm(gold) or _has_open_logarithm(answer):
            return self._with_either_logarithm(gold, answer)
        return self._rational(gold, answer)

    def _with_either_logarithm(self, gold: Expr, answer: Expr) -> Same:
        """`log` without a base is natural or decimal: equality under one reading on both sides counts."""
        found = [self._rational(_with_base(gold, base), _with_base(answer, base)) for base in (None, 10)]
        if Same.YES in found:
            return Same.YES
        return Same.UNKNOWN if Same.UNKNOWN in found else Same.NO

    def _rational(self, gold: Expr, answer: Expr) -> Same:
        try:
            expected, found = exact.rational(gold), exact.rational(answer)
        except exact.UndefinedError:
            return Same.NO
        except TooLargeError:
            return self._symbolic(gold, answer)
        if expected is not None and found is not None:
            return is_true(
                self._near(expected, found) or (bool(_digits(gold) or _digits(answer)) and self._rounded(gold, answer, expected, found))
            )
        if expected is None and found is None:
            return self._symbolic(gold, answer)
        return self._mixed(gold, answer)

    def _near(self, expected: Fraction, found: Fraction) -> bool:
        if expected == found:
            return True
        allowed = max(Fraction(self.options.absolute_tolerance), Fraction(self.options.relative_tolerance) * abs(expected))
        return abs(expected - found) <= allowed if allowed else False

    def _rounded(self, gold: Expr, answer: Expr, expected: Fraction, found: Fraction) -> bool:
        """A decimal of many digits for a fraction that no finite decimal equals, on either side."""
        digits, exact_value, decimal = (
            (_digits(answer), expected, found) if _digits(answer) and not _digits(gold) else (_digits(gold), found, expected)
        )
        if digits < self.options.decimal_digits or (_digits(gold) and _digits(answer)) or _is_finite_decimal(exact_value):
            return False
        return abs(exact_value - decimal) <= abs(exact_value) * Fraction(1, 10 ** (self.options.decimal_digits - 1)) / 2

    def _mixed(self, gold: Expr, answer: Expr) -> Same:
        """One side is rational: a decimal may stand for an irrational value."""
        digits = _digits(gold) or _digits(answer)
        if not (free_symbols(gold) or free_symbols(answer)) and (digits >= self.options.decimal_digits or self._has_tolerance()):
            expected, found = probe.number(gold, 60), probe.number(answer, 60)
            if expected is not None and found is not None:
                allowed = max(self.options.absolute_tolerance, self.options.relative_tolerance * abs(expected))
                if digits >= self.options.decimal_digits:
                    allowed = max(allowed, abs(expected) * 5 / 10**self.options.decimal_digits)
                return is_true(abs(expected - found) <= allowed)
        return self._symbolic(gold, answer)

    def _has_tolerance(self) -> bool:
        return bool(self.options.absolute_tolerance or self.options.relative_tolerance)

    def _symbolic(self, gold: Expr, answer: Expr) -> Same:
        decided = _by_normal_form(gold, answer)
        if decided is not None:
            return decided
        if time.monotonic() > self._until:
            return Same.UNKNOWN
        evidence = probe.compare(gold, answer)
        if evidence in (probe.Evidence.DIFFERENT, probe.Evidence.UNDEFINED):
            return self._close_enough(gold, answer)
        # Analytic functions agree at random points only if they agree everywhere. What has branches or steps needs a proof.
        has_variables = bool(free_symbols(gold) | free_symbols(answer)) or probe.has_unknown(gold)
        if evidence is probe.Evidence.AGREE and has_variables and probe.is_analytic(gold) and probe.is_analytic(answer):
            return Same.YES
        # On two values beyond all bounds, sympy would spend its whole deadline on the digits.
        hopeless = evidence is probe.Evidence.UNKNOWN and probe.is_huge(gold) and probe.is_huge(answer)
        proof = None if hopeless else self.prove(gold, answer, self.options.symbolic_deadline_s)
        if proof:
            return Same.YES
        # A proof against points that agree concerns values that are not real, where the sides need not agree.
        return Same.NO if proof is False and evidence is not probe.Evidence.AGREE else Same.UNKNOWN

    def _close_enough(self, gold: Expr, answer: Expr) -> Same:
        if not self._has_tolerance() or free_symbols(gold) or free_symbols(answer):
            return Same.NO
        expected, found = probe.number(gold), probe.number(answer)
        if expected is None or found is None:
            return Same.NO
        allowed = max(self.options.absolute_tolerance, self.options.relative_tolerance * abs(expected))
        return is_true(abs(expected - found) <= allowed)


@lru_cache(maxsize=4096)
def _by_normal_form(gold: Expr, answer: Expr) -> Same | None:
    expected, found = normal(gold), normal(answer)
    if expected is None or found is None:
        return None
    try:
        if same(expected, found):
            return Same.YES
    except TooLargeError:
        return None
    return Same.NO if is_polynomial(expected) and is_polynomial(found) else None


def _has_infinity(tree: object) -> bool:
    """Whether infinity is a part of the value, and no bound of a sum, integral or limit."""
    if isinstance(tree, Call) and tree.name in BINDERS:
        return _has_infinity(tree.args[0])
    return tree == INFINITY or any(map(_has_infinity, children(tree)))


def _infinity(tree: Expr) -> int | None:
    """1 or -1 for plus or minus infinity."""
    if tree == INFINITY:
        return 1
    return -1 if tree == Mul((MINUS_ONE, INFINITY)) else None


def _has_open_logarithm(tree: Expr) -> bool:
    return any(isinstance(part, Call) and part.name == "log" for part in walk(tree))


def _with_base(tree: Expr, base: int | None) -> Expr:
    def change(part: Expr) -> Expr:
        if not (isinstance(part, Call) and part.name == "log"):
            return part
        return Call("ln", part.args) if base is None else Call("logb", (*part.args, integer(base)))

    return mapped(tree, change)


def _digits(tree: Expr) -> int:
    """Significant digits of a decimal as written, also with a sign or a power of ten; 0 for what is no decimal."""
    if isinstance(tree, Num):
        return tree.digits
    if isinstance(tree, Mul):
        decimals = [part for part in tree.factors if isinstance(part, Num) and part.digits]
        return decimals[0].digits if len(decimals) == 1 and all(exact_number(part) for part in tree.factors) else 0
    return 0


def exact_number(tree: Expr) -> bool:
    return probe.exact_or_none(tree) is not None


def _is_finite_decimal(value: Fraction) -> bool:
    lower = value.denominator
    for prime in (2, 5):
        while lower % prime == 0:
            lower //= prime
    return lower == 1
