"""Rows that a test spells out: `for x, y in [(1, 2), (3, 4)]:`, and `parametrize("x, y", [(1, 2), (3, 4)])`.

Written one after the other, without a loop, what asserts expect of each row can stay outside.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

MAX_ROWS = 100
MAX_STATEMENTS = 1000


@dataclass(frozen=True, slots=True)
class SpelledRows:
    names: tuple[str, ...]
    rows: tuple[tuple[ast.expr, ...], ...]
    body: tuple[ast.stmt, ...]
    """What is done with each row."""


def spelled_loop(node: ast.For) -> SpelledRows | None:
    """None for a loop that is not over rows, or leaves early."""
    if node.orelse or not isinstance(node.target, ast.Tuple) or _has(node.body, ast.Break | ast.Continue):
        return None
    names = [target.id for target in node.target.elts if isinstance(target, ast.Name)]
    return _spelled(names, node.iter, node.body) if len(names) == len(node.target.elts) else None


def spelled_parameters(node: ast.FunctionDef) -> SpelledRows | None:
    """None for a function that is not parametrized once, or takes anything besides, such as a fixture."""
    match node.decorator_list:
        case [
            ast.Call(
                func=ast.Attribute(value=ast.Attribute(attr="mark"), attr="parametrize"),
                args=[ast.Constant(value=str() as names), rows],
                keywords=[],
            )
        ]:
            found = tuple(name.strip() for name in names.split(","))
        case _:
            return None
    taken = [argument.arg for argument in node.args.args if argument.arg != "self"]
    simple = not (node.args.posonlyargs or node.args.kwonlyargs or node.args.vararg or node.args.kwarg or node.args.defaults)
    if not simple or sorted(taken) != sorted(found) or _has(node.body, ast.Return | ast.Yield | ast.YieldFrom):
        return None
    return _spelled(found, rows, node.body)


def _spelled(names: list[str] | tuple[str, ...], rows: ast.expr, body: list[ast.stmt]) -> SpelledRows | None:
    if not isinstance(rows, ast.List | ast.Tuple) or not 0 < len(rows.elts) <= MAX_ROWS or len(rows.elts) * len(body) > MAX_STATEMENTS:
        return None
    found = tuple(_values(rows.elts, len(names)))
    if len(found) != len(rows.elts) or any(_binds(statement, names) for statement in body):
        return None
    return SpelledRows(tuple(names), found, tuple(body))


def _values(rows: list[ast.expr], count: int) -> Iterator[tuple[ast.expr, ...]]:
    for row in rows:
        if isinstance(row, ast.Tuple | ast.List) and len(row.elts) == count and not any(isinstance(part, ast.Starred) for part in row.elts):
            yield tuple(row.elts)


def _binds(statement: ast.stmt, names: list[str] | tuple[str, ...]) -> bool:
    return any(
        (isinstance(part, ast.Name) and part.id in names and not isinstance(part.ctx, ast.Load))
        or (isinstance(part, ast.arg) and part.arg in names)
        for part in ast.walk(statement)
    )


def _has(body: list[ast.stmt], kinds: type[ast.AST] | object) -> bool:
    return any(isinstance(part, kinds) for statement in body for part in ast.walk(statement))  # type: ignore[arg-type] # a union of classes
