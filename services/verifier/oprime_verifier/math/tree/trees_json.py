"""Expressions as plain JSON, for the pipe to the symbolic process."""

from fractions import Fraction
from typing import Any

from oprime_verifier.math.tree.values import Add, Call, Const, Expr, Mul, Num, Pow, Sign, Sym


def to_json(tree: Expr) -> list[Any]:
    if isinstance(tree, Num):
        return ["n", hex(tree.value.numerator), hex(tree.value.denominator)]
    if isinstance(tree, Const):
        return ["c", tree.name]
    if isinstance(tree, Sym):
        return ["s", tree.name]
    if isinstance(tree, Sign):
        raise TypeError("a plus-minus sign is resolved before a proof")
    if isinstance(tree, Pow):
        return ["^", to_json(tree.base), to_json(tree.exponent)]
    if isinstance(tree, Call):
        return ["f", tree.name, *map(to_json, tree.args)]
    parts = tree.terms if isinstance(tree, Add) else tree.factors
    return ["+" if isinstance(tree, Add) else "*", *map(to_json, parts)]


def from_json(node: list[Any]) -> Expr:
    kind, *rest = node
    if kind == "n":
        return Num(Fraction(int(rest[0], 16), int(rest[1], 16)))
    if kind == "c":
        return Const(rest[0])
    if kind == "s":
        return Sym(rest[0])
    if kind == "^":
        return Pow(from_json(rest[0]), from_json(rest[1]))
    if kind == "f":
        return Call(rest[0], tuple(map(from_json, rest[1:])))
    parts = tuple(map(from_json, rest))
    return Add(parts) if kind == "+" else Mul(parts)
