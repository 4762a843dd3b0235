"""The same assertion with other constants or values: what agrees with all of them agrees with anything."""

import ast
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

FAR = 10**9


class Comparison(NamedTuple):
    """A check of values of which some are no data, which their own interpreter compares."""

    others: list[str]
    """Sources of functions of the same values, of which some must be false."""
    is_equality: bool
    """Then all of them must."""


def comparison(upper: str, data: Mapping[int, Any]) -> Comparison:
    """`upper`: source of the check, a lambda; `data`: its values that are data, by place."""
    function = ast.parse(upper, mode="eval").body
    assert isinstance(function, ast.Lambda)  # noqa: S101 - our own
    if is_difference(function.body):
        return Comparison([], False)
    parameters = [parameter.arg for parameter in function.args.args]
    head = f"lambda {', '.join(parameters)}: "
    others = [head + ast.unparse(variant) for variant in variants_of(function.body)]
    for place, value in data.items():
        for other in other_values(value):
            others.append(f"{head}({upper})({', '.join([*parameters[:place], other, *parameters[place + 1 :]])})")
    return Comparison(others, is_equality(function.body))


def is_equality(test: ast.expr) -> bool:
    """Whether it says `a == b`, or `not a != b`."""
    operator, negated = _core(test)
    return isinstance(operator, ast.NotEq if negated else ast.Eq)


def is_difference(test: ast.expr) -> bool:
    """Whether it says that something is not something else: true of honest objects and most values."""
    operator, negated = _core(test)
    return isinstance(operator, (ast.Eq, ast.In, ast.Is) if negated else (ast.NotEq, ast.NotIn, ast.IsNot))


def _core(test: ast.expr) -> tuple[ast.cmpop | None, bool]:
    """The operator of a comparison of two, and whether it stands behind a `not`."""
    negated = False
    while isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        negated, test = not negated, test.operand
    return (test.ops[0] if isinstance(test, ast.Compare) and len(test.ops) == 1 else None), negated


def variants_of(test: ast.expr) -> Iterator[ast.expr]:
    """None where it has no constant."""
    source = ast.unparse(test)
    for shift in _SHIFTS:
        changed = _Shifted(shift)
        variant = changed.visit(ast.parse(source, mode="eval").body)
        if changed.any:
            yield ast.fix_missing_locations(variant)


def other_values(value: object) -> Iterator[str]:
    """Sources of values like this one, which is made of built-in ones; none where it has no source."""
    try:
        tree = ast.parse(repr(value), mode="eval").body
        if ast.literal_eval(tree) != value:
            return
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for variant in variants_of(tree):
        yield ast.unparse(variant)


class _Shifted(ast.NodeTransformer):
    def __init__(self, shift: Callable[[Any], Any]) -> None:
        self._shift = shift
        self.any = False

    def _single(self) -> list[ast.expr]:
        return [ast.Constant(self._shift(0))]

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        self.any = True
        return ast.Constant(self._shift(node.value))

    def visit_Call(self, node: ast.Call) -> ast.expr:
        if isinstance(node.func, ast.Name) and node.func.id in ("set", "list", "tuple", "frozenset") and not node.args:
            self.any = True
            return ast.Call(node.func, [ast.List(self._single(), ast.Load())], [])
        return self.generic_visit(node)  # type: ignore[return-value] # an expression stays one

    def visit_List(self, node: ast.List) -> ast.expr:
        return self._longer(node)

    def visit_Tuple(self, node: ast.Tuple) -> ast.expr:
        return self._longer(node)

    def _longer(self, node: ast.List | ast.Tuple) -> ast.expr:
        if node.elts:
            return self.generic_visit(node)  # type: ignore[return-value] # an expression stays one
        self.any = True
        return type(node)(self._single(), ast.Load())

    def visit_Dict(self, node: ast.Dict) -> ast.expr:
        if node.keys:
            return self.generic_visit(node)  # type: ignore[return-value] # an expression stays one
        self.any = True
        return ast.Dict([*self._single()], self._single())


def _next(value: Any) -> Any:
    if isinstance(value, bool) or value is None or value is ...:
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float | complex):
        return value * 1.5 + 1
    return value + (b"~" if isinstance(value, bytes) else "~")


def _far_up(value: Any) -> Any:
    if isinstance(value, int | float | complex) and not isinstance(value, bool):
        return value + FAR
    return "\U0010ffff" if isinstance(value, str) else _next(value)


def _far_down(value: Any) -> Any:
    if isinstance(value, int | float | complex) and not isinstance(value, bool):
        return value - FAR
    return "" if isinstance(value, str) and value else _next(value)


_SHIFTS: tuple[Callable[[Any], Any], ...] = (_next, _far_up, _far_down)
