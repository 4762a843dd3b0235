"""Polynomials over atoms: sums of products of powers, with rational coefficients."""

from fractions import Fraction

from oprime_verifier.math.tree import exact
from oprime_verifier.math.tree.values import TooLargeError

Monomial = tuple[tuple[str, Fraction], ...]
"""Atoms by name with their powers, sorted."""
Polynomial = dict[Monomial, Fraction]

MAX_TERMS = 400
ONE: Monomial = ()


def plus(left: Polynomial, right: Polynomial) -> Polynomial:
    found = dict(left)
    for monomial, coefficient in right.items():
        total = found.get(monomial, Fraction(0)) + coefficient
        if total:
            found[monomial] = total
        else:
            found.pop(monomial, None)
    if len(found) > MAX_TERMS:
        raise TooLargeError("a sum is too long to expand")
    return found


def minus(left: Polynomial, right: Polynomial) -> Polynomial:
    return plus(left, {monomial: -coefficient for monomial, coefficient in right.items()})


def times(left: Polynomial, right: Polynomial) -> Polynomial:
    if len(left) * len(right) > 20 * MAX_TERMS:
        raise TooLargeError("a product is too long to expand")
    found: Polynomial = {}
    for first, one in left.items():
        for second, other in right.items():
            powers = dict(first)
            for atom, power in second:
                powers[atom] = powers.get(atom, Fraction(0)) + power
            monomial = tuple(sorted((atom, power) for atom, power in powers.items() if power))
            found[monomial] = found.get(monomial, Fraction(0)) + one * other
    if any(coefficient.numerator.bit_length() > exact.MAX_BITS for coefficient in found.values()):
        raise TooLargeError("a coefficient is too large to expand")
    return reduced({monomial: coefficient for monomial, coefficient in found.items() if coefficient})


def reduced(polynomial: Polynomial) -> Polynomial:
    """With i^2 = -1 and whole powers of numbers under roots computed."""
    if not any(atom.startswith(("c:i", "n:")) for monomial in polynomial for atom, _ in monomial):
        return polynomial
    found: Polynomial = {}
    for monomial, coefficient in polynomial.items():
        kept: list[tuple[str, Fraction]] = []
        value = coefficient
        for atom, power in monomial:
            factor, rest = _carried(atom, power)
            value *= factor
            if rest:
                kept.append((atom, rest))
        found = plus(found, {tuple(kept): value})
    return found


def _carried(atom: str, power: Fraction) -> tuple[Fraction, Fraction]:
    """What of an atom's power is a number, and the power that stays."""
    if atom == "c:i" and power.denominator == 1:
        turns = int(power) % 4
        return Fraction(-1 if turns >= 2 else 1), Fraction(turns % 2)
    if atom.startswith("n:"):
        whole = power.numerator // power.denominator
        factor = exact.power(Fraction(int(atom[2:])), Fraction(whole))
        return factor or Fraction(1), power - whole
    return Fraction(1), power


def written(polynomial: Polynomial) -> str:
    return "+".join(f"{coefficient}*{monomial}" for monomial, coefficient in sorted(polynomial.items()))
