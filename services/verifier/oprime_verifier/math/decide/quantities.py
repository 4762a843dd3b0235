"""Numbers with units: percentages, money, angles, measures; and what happens when a side has none."""

from collections.abc import Callable
from fractions import Fraction
from itertools import takewhile

from oprime_verifier.math.decide import probe
from oprime_verifier.math.decide.verdicts import Same, either
from oprime_verifier.math.options import MathOptions
from oprime_verifier.math.read.units import DEGREES, MONEY, PERCENT, RADIANS, is_unit_name, make_unit
from oprime_verifier.math.tree.values import PI, Call, Expr, Mul, Num, Quantity, Sym, Unit, walk

SameExpr = Callable[[Expr, Expr], Same]

INVERSE_ANGLES = frozenset({"asin", "acos", "atan", "acot", "asec", "acsc"})
_HUNDREDTH = Fraction(1, 100)
_DEGREE = Mul((PI, Num(Fraction(1, 180))))


def scaled(value: Expr, factor: Fraction) -> Expr:
    if factor == 1:
        return value
    if isinstance(value, Num):
        return Num(value.value * factor, value.digits)
    return Mul((value, Num(factor)))


def same_quantities(gold: Expr | Quantity, answer: Expr | Quantity, options: MathOptions, same: SameExpr) -> Same:
    """Equality where at least one side has a unit."""
    if isinstance(gold, Quantity) and not isinstance(answer, Quantity):
        answer = _with_letters_as_unit(answer)
    if isinstance(gold, Quantity) and isinstance(answer, Quantity):
        found = _both(gold, answer, options, same)
        return found if gold.unit.text == answer.unit.text else _unless_unknown(found, gold.unit, answer.unit)
    if isinstance(gold, Quantity):
        found = _without_unit(gold, answer, options, same, gold_has_it=True)  # pyright: ignore[reportArgumentType]
        return _unless_unknown(found, gold.unit)
    if not isinstance(answer, Quantity):
        return same(gold, answer)
    found = _without_unit(answer, gold, options, lambda measured, bare: same(bare, measured), gold_has_it=False)
    return _unless_unknown(found, answer.unit)


def _unless_unknown(found: Same, *units: Unit) -> Same:
    """Words that neither measure nor count may be part of the number, so that equal numbers do not settle it."""
    return Same.UNKNOWN if found is Same.YES and not all(unit.is_known for unit in units) else found


def _with_letters_as_unit(answer: Expr | Quantity) -> Expr | Quantity:
    """`5 m` for a gold that has a unit: the letter is metres, and no variable."""
    if not isinstance(answer, Mul):
        return answer
    letters = list(takewhile(lambda part: isinstance(part, Sym) and len(part.name) == 1, reversed(answer.factors)))
    name = "".join(part.name for part in reversed(letters) if isinstance(part, Sym))
    rest = answer.factors[: -len(letters)] if letters else ()
    if not rest or not is_unit_name(name):
        return answer
    return Quantity(rest[0] if len(rest) == 1 else Mul(rest), make_unit(((name, 1),)))


def _both(gold: Quantity, answer: Quantity, options: MathOptions, same: SameExpr) -> Same:
    one, other = gold.unit, answer.unit
    if one.text == other.text or (one.dimension == other.dimension and one.dimension is not None and one.factor == other.factor):
        return same(gold.value, answer.value)
    if one.dimension == () or other.dimension == ():
        return same(scaled(gold.value, one.factor), scaled(answer.value, other.factor))
    if one.dimension is None and other.dimension is None:
        words = set(one.text.split()), set(other.text.split())
        return same(gold.value, answer.value) if words[0] <= words[1] or words[1] <= words[0] else Same.NO
    if one.dimension != other.dimension:
        if {one.dimension, other.dimension} == {DEGREES, RADIANS} and options.degrees_radians:
            return same(_radians(gold), _radians(answer))
        return Same.NO
    return same(scaled(gold.value, one.factor), scaled(answer.value, other.factor)) if options.unit_conversion else Same.NO


def _radians(quantity: Quantity) -> Expr:
    return Mul((quantity.value, _DEGREE)) if quantity.unit.dimension == DEGREES else quantity.value


def _without_unit(measured: Quantity, bare: Expr, options: MathOptions, same: SameExpr, *, gold_has_it: bool) -> Same:
    """`same(measured, bare)` for a bare number beside one with a unit."""
    unit = measured.unit
    if unit.dimension == PERCENT:
        return _percent(measured.value, bare, options, same, gold_has_it=gold_has_it)
    trials: list[Same] = []
    if options.unit_optional or unit.dimension == ():
        trials.append(same(measured.value, bare))
    if (
        unit.dimension == DEGREES
        and options.degrees_radians
        and any(part == PI or (isinstance(part, Call) and part.name in INVERSE_ANGLES) for part in walk(bare))
    ):
        trials.append(same(Mul((measured.value, _DEGREE)), bare))
    if _is_minor_money(unit):
        trials.append(same(scaled(measured.value, unit.factor), bare))
    return either(trials)


def _is_minor_money(unit: Unit) -> bool:
    return unit.dimension is not None and len(unit.dimension) == 1 and unit.dimension[0][0] in MONEY and unit.factor != 1


def _percent(value: Expr, bare: Expr, options: MathOptions, same: SameExpr, *, gold_has_it: bool) -> Same:
    trials = [same(scaled(value, _HUNDREDTH), bare)]
    if options.percent_bare and (gold_has_it or _is_above_one(bare)):
        trials.append(same(value, bare))
    return either(trials)


def _is_above_one(bare: Expr) -> bool:
    number = probe.number(bare)
    return number is not None and abs(number) > 1
