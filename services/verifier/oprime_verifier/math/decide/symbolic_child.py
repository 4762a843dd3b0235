"""Proofs by sympy. Runs only in the forked process of `symbolic.py`: whatever hangs or grows here is killed from outside.

Expressions are built from our own tree by calling sympy's constructors. No text is ever parsed by sympy.
"""

from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

import sympy
from sympy import Integer, Rational, S

from oprime_verifier.math.tree.build import mapped
from oprime_verifier.math.tree.values import Add, Call, Const, Expr, Mul, Num, Pow, Sym, free_symbols, negative

_CONSTANTS = {"pi": S.Pi, "e": S.Exp1, "i": S.ImaginaryUnit, "inf": S.Infinity}


class UnbuildableError(ValueError):
    """sympy has no counterpart for a part of the tree."""


def prove(left: Expr, right: Expr) -> bool | None:
    """Whether two expressions are equal; None where sympy cannot tell."""
    sides = _sides(left, right)
    if sides is None:
        return None
    difference = sides[0] - sides[1]
    found = _simplified(difference, (*_WAYS[:_CHEAP], _with_factored_roots))
    if found is None and _has_branches(difference):
        found = _by_signs(left, right) or None
    if found is None:
        found = _simplified(difference, _WAYS[_CHEAP:])
    if found is not None:
        return found
    if difference.is_number:
        return _constant(difference)
    answer = difference.equals(0)
    return answer if answer is None else bool(answer)


def _simplified(difference: Any, ways: tuple[Callable[[Any], Any], ...]) -> bool | None:
    for simplify in ways:
        found = simplify(difference)
        if found == 0:
            return True
        if found.is_number and not found.free_symbols and _is_surely_nonzero(found):
            return False
    return None


# Roots and logarithms, by the signs of their variables


def _has_branches(value: Any) -> bool:
    """Whether it has roots or logarithms of what depends on a few variables."""
    return 0 < len(value.free_symbols) <= MAX_SIGNED and any(map(_is_branching, sympy.preorder_traversal(value)))


def _is_branching(part: Any) -> bool:
    is_root = isinstance(part, sympy.Pow) and part.exp.is_integer is not True
    return bool(part.free_symbols) and (is_root or isinstance(part, (sympy.log, sympy.Abs, sympy.sign)))


def _under(part: Any) -> Any:
    """What must not be negative for the part to be real; None where nothing must."""
    if isinstance(part, sympy.log):
        inner = part.args[0]
    elif isinstance(part, sympy.Pow) and not (isinstance(part.exp, Rational) and part.exp.q % 2):
        inner = part.base
    else:
        return None
    return inner if inner.free_symbols else None


def _by_signs(left: Expr, right: Expr) -> bool:
    """Whether the sides are equal for each choice of signs of the variables for which both of them are real somewhere."""
    names = sorted(free_symbols(left) | free_symbols(right))
    sides = [build(left), build(right)]
    proven = False
    for signs in product((1, -1), repeat=len(names)):
        if not any(all(_is_real(side, point) for side in sides) for point in _signed_points(names, signs)):
            continue
        positive = (Sym(f"{_POSITIVE}{name}") for name in names)
        table = {name: one if sign > 0 else negative(one) for name, one, sign in zip(names, positive, signs, strict=True)}
        difference = build(_with_signs(left, table)) - build(_with_signs(right, table))
        if _simplified(difference, (*_WAYS[:_CHEAP], _with_positive_radicands, _with_factored_roots, sympy.simplify)) is not True:
            return False
        proven = True
    return proven


def _with_signs(tree: Expr, table: Mapping[str, Expr]) -> Expr:
    return mapped(tree, lambda part: table.get(part.name, part) if isinstance(part, Sym) else part)


def _with_positive_radicands(value: Any) -> Any:
    """Each sum under a root as one positive variable: where the root is real, it is none other."""
    inner = (_under(part) for part in sympy.preorder_traversal(value))
    sums = {part for part in inner if part is not None and part.is_Add}
    return value.subs({part: sympy.Dummy(positive=True) for part in sums})


def _with_factored_roots(value: Any) -> Any:
    """sqrt(x^2 + 2x + 1) as |x + 1|."""
    return value.replace(
        lambda part: isinstance(part, sympy.Pow) and part.exp.is_Rational and not part.exp.is_integer,
        _factored,
    )


def _factored(root: Any) -> Any:
    return sympy.factor(root.base) ** root.exp


def _signed_points(names: list[str], signs: tuple[int, ...]) -> list[dict[Any, Any]]:
    samples = ((100, 37, 97), (13, 211, 53), (700, 11, 19))
    return [
        {
            sympy.Symbol(name, real=True): sign * Rational(start + step * place, scale)
            for place, (name, sign) in enumerate(zip(names, signs, strict=True))
        }
        for start, step, scale in samples
    ]


def _is_real(value: Any, point: dict[Any, Any]) -> bool:
    inner = (_under(part) for part in sympy.preorder_traversal(value))
    return all(bool(part.subs(point).evalf(20) >= 0) for part in inner if part is not None)


def _sides(left: Expr, right: Expr) -> list[Any] | None:
    """Both sides with their sums, integrals and limits computed; None where that is not possible."""
    try:
        sides = [build(left), build(right)]
    except UnbuildableError:
        return None
    if not all(map(_is_confirmed, sides)):
        return None
    if any(side.has(*_UNDONE) for side in sides):
        sides = [side.doit() for side in sides]
        if any(side.has(*_IMPROPER) for side in sides):
            return None
    return sides


def _is_confirmed(value: Any) -> bool:
    """Whether numbers agree with what sympy finds for each integral and limit: its rules for those are not proofs."""
    return all(_agrees(part) for part in value.atoms(sympy.Integral, sympy.Limit))


def _agrees(part: Any) -> bool:
    if isinstance(part, sympy.Limit):
        return _is_approached(part)
    body = part.function.doit()
    for bounds in part.limits:  # the innermost one first
        step, body = sympy.Integral(body, bounds), sympy.Integral(body, bounds).doit()
        sample = _sample(step)
        if not _is_near(step.subs(sample).evalf(20), body.subs(sample).evalf(20)):
            return False
    return True


def _is_approached(limit: Any) -> bool:
    """Whether the expression is near its limit close to where the variable goes."""
    sample = _sample(limit)
    found = limit.doit().subs(sample).evalf(20)
    body, variable, target, side = limit.subs(sample).args
    ways = {"+": (1,), "-": (-1,)}.get(str(side), (1, -1))
    places = [sympy.sign(target) * 10**8] if target.is_infinite else [target + way * Rational(1, 10**6) for way in ways]
    return all(_is_near(body.subs(variable, place.evalf(40)).evalf(40), found) for place in places)


def _sample(part: Any) -> dict[Any, Any]:
    return {name: Rational(100 + 37 * place, 97) for place, name in enumerate(sorted(part.free_symbols, key=str))}


def _is_near(shown: Any, found: Any) -> bool:
    """Coarsely: a kink or a slow limit costs many digits, and what is wrong with a rule of integration is seldom small."""
    if not all(value.is_number and value.is_finite and not value.has(*_UNDONE) for value in (shown, found)):
        return False
    return bool(abs(shown - found) <= (1 + abs(found)) / 1000)


def _constant(difference: Any) -> bool | None:
    if difference.has(sympy.atan, sympy.asin, sympy.acos) and difference.is_real and abs(difference.evalf(30)) < 1:
        # A real number between -1 and 1 whose tangent is zero is zero.
        return True if sympy.simplify(sympy.expand_trig(sympy.tan(difference))) == 0 else None
    if difference.is_algebraic:
        variable = sympy.Dummy()
        return bool(sympy.minimal_polynomial(difference, variable) == variable)
    # sympy's own answer to `equals` may rest on digits; only its proofs of difference are taken.
    return False if _is_surely_nonzero(difference) else None


def _is_surely_nonzero(value: Any) -> bool:
    number = value.evalf(30, maxn=400)
    return bool(number.is_number and number.is_comparable and abs(number) > Rational(1, 10**20)) or bool(
        number.is_number and number.is_Float is not True and value.is_zero is False
    )


_POSITIVE = "+"
"""Before the name of a variable that is positive."""
_CHEAP = 3
"""Ways that take no time worth mentioning."""
MAX_SIGNED = 5
"""Variables whose signs are tried one by one."""
_WAYS: tuple[Callable[[Any], Any], ...] = (
    lambda value: value,
    sympy.expand,
    lambda value: sympy.expand_log(value),
    sympy.radsimp,
    sympy.sqrtdenest,
    lambda value: sympy.logcombine(value, force=False),
    sympy.trigsimp,
    lambda value: sympy.gammasimp(sympy.combsimp(value)),
    sympy.simplify,
    lambda value: (
        sympy.simplify(sympy.expand(value.rewrite(sympy.exp), complex=True)) if value.has(sympy.sin, sympy.cos, sympy.I) else value
    ),
)


def build(tree: Expr) -> Any:  # noqa: PLR0911 - one line for each kind of node
    if isinstance(tree, Num):
        return Rational(tree.value.numerator, tree.value.denominator)
    if isinstance(tree, Sym):
        return sympy.Symbol(tree.name, positive=True) if tree.name[0] == _POSITIVE else sympy.Symbol(tree.name, real=True)
    if isinstance(tree, Const) and tree.name in _CONSTANTS:
        return _CONSTANTS[tree.name]
    if isinstance(tree, Add):
        return sympy.Add(*map(build, tree.terms))
    if isinstance(tree, Mul):
        return sympy.Mul(*map(build, tree.factors))
    if isinstance(tree, Pow):
        return _power(build(tree.base), build(tree.exponent))
    if isinstance(tree, Call):
        return _call(tree)
    raise UnbuildableError(type(tree).__name__)


def _power(base: Any, exponent: Any) -> Any:
    if base.is_negative and exponent.is_Rational and exponent.q % 2 and exponent.q > 1:
        return sympy.real_root(base, exponent.q) ** exponent.p
    return sympy.Pow(base, exponent)


def _call(tree: Call) -> Any:
    if tree.name in _BINDERS:
        return _BINDERS[tree.name](tree)
    function = sympy.Function(tree.name, real=True) if tree.name[0] == "@" else _FUNCTIONS.get(tree.name)
    if function is None:
        raise UnbuildableError(tree.name)
    return function(*map(build, tree.args))


def _repeated(tree: Call) -> Any:
    body, index, low, high = tree.args
    if not isinstance(index, Sym):
        raise UnbuildableError("an index")
    variable = sympy.Symbol(index.name, integer=True)
    inner = build(body).subs(sympy.Symbol(index.name, real=True), variable)
    kind = sympy.Sum if tree.name == "sum" else sympy.Product
    return kind(inner, (variable, build(low), build(high)))


def _integral(tree: Call) -> Any:
    body, variable, low, high = map(build, tree.args)
    return sympy.Integral(body, (variable, low, high))


def _limit(tree: Call) -> Any:
    body, variable, target, side = map(build, tree.args)
    way = "-" if target.is_infinite or side == -1 else "+" if side == 1 else "+-"
    return sympy.Limit(body, variable, target, way)


_BINDERS: dict[str, Callable[[Call], Any]] = {"sum": _repeated, "prod": _repeated, "int": _integral, "lim": _limit}
_UNDONE = (sympy.Sum, sympy.Product, sympy.Integral, sympy.Limit)
_IMPROPER = (sympy.Integral, sympy.Limit, sympy.Piecewise, sympy.AccumBounds, S.NaN, S.ComplexInfinity)


def _root(value: Any, degree: Any) -> Any:
    if degree == 2:
        return sympy.sqrt(value)
    if degree.is_Integer and degree % 2:
        # For a variable of unknown sign this keeps the real root.
        return sympy.real_root(value, degree) if value.is_real is not False else sympy.root(value, degree)
    return sympy.root(value, degree)


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "sin": sympy.sin, "cos": sympy.cos, "tan": sympy.tan, "cot": sympy.cot, "sec": sympy.sec, "csc": sympy.csc,
    "sinh": sympy.sinh, "cosh": sympy.cosh, "tanh": sympy.tanh, "coth": sympy.coth, "sech": sympy.sech, "csch": sympy.csch,
    "asin": sympy.asin, "acos": sympy.acos, "atan": sympy.atan, "acot": sympy.acot, "asec": sympy.asec, "acsc": sympy.acsc,
    "asinh": sympy.asinh, "acosh": sympy.acosh, "atanh": sympy.atanh, "ln": sympy.log, "log": sympy.log,
    "logb": sympy.log, "root": _root, "abs": sympy.Abs, "floor": sympy.floor, "ceil": sympy.ceiling,
    "factorial": sympy.factorial, "factorial2": sympy.factorial2, "Gamma": sympy.gamma, "binom": sympy.binomial,
    "mod": sympy.Mod, "conj": sympy.conjugate,
    "re": sympy.re, "im": sympy.im, "arg": sympy.arg, "sign": sympy.sign, "zeta": sympy.zeta, "max": sympy.Max, "min": sympy.Min,
    "gcd": sympy.gcd, "lcm": sympy.lcm,
}  # fmt: skip

ZERO = Integer(0)
