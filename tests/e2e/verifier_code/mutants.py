"""Wrong programs, made from right ones by small changes."""

import ast
import copy
import hashlib
import warnings
from collections.abc import Callable, Iterator

Change = Callable[[ast.AST], ast.AST | None]
_OPPOSITE: dict[type, type] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv,
    ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


def _off_by_one(node: ast.AST) -> ast.AST | None:
    return ast.Constant(node.value + 1) if isinstance(node, ast.Constant) and type(node.value) is int else None


def _other_constant(node: ast.AST) -> ast.AST | None:
    if not isinstance(node, ast.Constant):
        return None
    if type(node.value) is bool:
        return ast.Constant(not node.value)
    return ast.Constant(node.value + "x") if type(node.value) is str else None


def _other_comparison(node: ast.AST) -> ast.AST | None:
    if isinstance(node, ast.Compare) and type(node.ops[0]) in _OPPOSITE:
        return ast.Compare(node.left, [_OPPOSITE[type(node.ops[0])](), *node.ops[1:]], node.comparators)
    return None


def _other_operator(node: ast.AST) -> ast.AST | None:
    if isinstance(node, ast.BinOp) and type(node.op) in _OPPOSITE:
        return ast.BinOp(node.left, _OPPOSITE[type(node.op)](), node.right)
    if isinstance(node, ast.BoolOp):
        return ast.BoolOp(_OPPOSITE[type(node.op)](), node.values)
    return None


def _negated_condition(node: ast.AST) -> ast.AST | None:
    if isinstance(node, ast.If | ast.IfExp | ast.While):
        node.test = ast.UnaryOp(ast.Not(), node.test)
        return node
    return None


def _removed_statement(node: ast.AST) -> ast.AST | None:
    return ast.Pass() if isinstance(node, ast.Assign | ast.AugAssign | ast.Expr | ast.For | ast.If) else None


def _returns_none(node: ast.AST) -> ast.AST | None:
    return ast.Return(ast.Constant(None)) if isinstance(node, ast.Return) and node.value is not None else None


def _swapped_arguments(node: ast.AST) -> ast.AST | None:
    if isinstance(node, ast.Call) and len(node.args) >= 2:
        return ast.Call(node.func, [node.args[1], node.args[0], *node.args[2:]], node.keywords)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub | ast.Div | ast.Mod | ast.Pow):
        return ast.BinOp(node.right, node.op, node.left)
    return None


CHANGES: dict[str, Change] = {
    "off by one": _off_by_one,
    "other constant": _other_constant,
    "other comparison": _other_comparison,
    "other operator": _other_operator,
    "negated condition": _negated_condition,
    "removed statement": _removed_statement,
    "returns None": _returns_none,
    "swapped arguments": _swapped_arguments,
}


class _At(ast.NodeTransformer):
    """Apply a change at the nth place where it applies."""

    def __init__(self, change: Change, place: int) -> None:
        self._change = change
        self._left = place
        self.done = False

    def visit(self, node: ast.AST) -> ast.AST:
        if not self.done:
            changed = self._change(copy.copy(node))
            if changed is not None:
                if self._left == 0:
                    self.done = True
                    return ast.copy_location(changed, node)
                self._left -= 1
        return self.generic_visit(node)


def mutants(source: str, most: int = 8) -> Iterator[tuple[str, str]]:
    """Kind and source: one of each kind where it applies, at a place that depends on the source, then second places."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old sources have odd escapes
        tree = ast.parse(source)
    made, seen = 0, {ast.unparse(tree)}
    start = hashlib.sha256(source.encode()).digest()[0]
    for round_number in range(3):
        for kind, change in CHANGES.items():
            places = sum(change(copy.copy(node)) is not None for node in ast.walk(tree))
            if places == 0 or made == most:
                continue
            walker = _At(change, (start + round_number) % places)
            text = ast.unparse(ast.fix_missing_locations(walker.visit(copy.deepcopy(tree))))
            if walker.done and text not in seen:
                seen.add(text)
                made += 1
                yield kind, text
