"""Cut a task's test source in two: what runs beside the solution, in its interpreter, and what stays outside.

`assert f([3, 1]) == sorted([1, 3])` becomes a check: beside the solution runs `f([3, 1])`, whose value is sent out as data; outside runs
`lambda _0: _0 == sorted([1, 3])`. So what a test expects is not in the interpreter in which the response runs, wherever the test writes it
as an expression of its own, and no object of the response takes part in a comparison of data.
"""

import ast
import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from oprime_verifier.code import test_units
from oprime_verifier.code.closed_names import ClosedNames
from oprime_verifier.code.prompts import parse
from oprime_verifier.code.spelled_rows import SpelledRows, spelled_loop, spelled_parameters
from oprime_verifier.sandbox.inside.checks import ATOM, CHECK, GUARD, GUARDED

SOLUTION_MODULES = frozenset({"solution", "main", "submission", "answer", "program"})
KEPT_PLANS = 64
_NUMERIC = frozenset({"abs", "round", "bool", "len", "isinstance", "float", "int"})
"""Functions that are as good outside, on data; others may use up what they are given."""
_QUESTIONS = frozenset({"all", "any", "isinstance", "issubclass", "hasattr", "callable"})
_NUMERIC_MODULES = frozenset({"math", "cmath"})
_SINGLETONS = (None, True, False, ...)
_UNITTEST = {
    "assertEqual": "_a == _b", "assertNotEqual": "_a != _b", "assertTrue": "_a", "assertFalse": "not _a", "assertIs": "_a is _b",
    "assertIsNot": "_a is not _b", "assertIsNone": "_a is None", "assertIsNotNone": "_a is not None", "assertIn": "_a in _b",
    "assertNotIn": "_a not in _b", "assertIsInstance": "isinstance(_a, _b)", "assertNotIsInstance": "not isinstance(_a, _b)",
    "assertGreater": "_a > _b", "assertGreaterEqual": "_a >= _b", "assertLess": "_a < _b", "assertLessEqual": "_a <= _b",
    "assertAlmostEqual": "round(abs(_a - _b), 7) == 0", "assertListEqual": "_a == _b", "assertTupleEqual": "_a == _b",
    "assertDictEqual": "_a == _b", "assertSetEqual": "_a == _b", "assertSequenceEqual": "_a == _b", "assertMultiLineEqual": "_a == _b",
}  # fmt: skip
"""What the methods of a TestCase assert of their first one or two arguments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One assert, or a comparison inside of one."""

    upper: str
    """Source of a function of the values that the solution's interpreter sends."""
    is_inside: bool
    """What it expects is a value in the solution's interpreter, where a response could read it, or a part of it is decided there."""
    asserts: bool
    """Whether it is an assert, which fails its test."""
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A piece of the tests that runs by itself."""

    how: str
    """`statements`, `function` and `method`, which are defined by then, or `check`, HumanEval's `check(candidate)`."""
    source: str = ""
    name: str = ""
    owner: str = ""
    is_test: bool = False
    line: int = 0
    calls_solution: bool = True
    is_value: bool = False
    """Whether it only names values, which cannot fail."""
    must: tuple[int, ...] = ()
    """Checks that stand on every way to the unit's end, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TestPlan:
    __test__ = False

    units: tuple[Unit, ...]
    checks: tuple[Check, ...]
    outside: str
    """Definitions of the tests that need nothing of the solution, for what runs outside."""
    classes: tuple[str, ...]
    """Classes that are defined on both sides: their objects cross by their attributes."""
    catches: bool
    """Whether a test may go on after an assert that does not hold."""
    skips: bool
    """Whether tests are skipped under some conditions."""
    changes: bool
    """Whether the tests themselves change what is built in, as with a patch."""

    @property
    def calls_solution(self) -> bool:
        return any(unit.calls_solution for unit in self.units)

    @property
    def tests(self) -> int:
        return sum(unit.is_test for unit in self.units)


@lru_cache(maxsize=KEPT_PLANS)
def plan_tests(source: str, preamble: str, names: frozenset[str]) -> TestPlan:
    """`preamble`: the task's own source that the tests may use; `names`: what the solution defines."""
    tree = parse(source)
    closed = ClosedNames((parse(preamble), tree), names)
    called = names | {"candidate"} | _imported_solutions(tree)
    folded = _constant_names(tree, closed)
    while True:
        rewriter = _Rewriter(closed, folded, called)
        units = tuple(_units(parse(source), rewriter, called))
        used = folded.keys() & rewriter.used_inside
        if not used:
            break
        folded = {name: value for name, value in folded.items() if name not in used}
    inside = set(map(id, tree.body))
    outside = "\n".join(ast.unparse(statement) for statement in closed.definitions if id(statement) in inside)
    return TestPlan(
        units=units if any(_mentions(part, called) for part in tree.body) else tuple(replace(unit, calls_solution=False) for unit in units),
        checks=tuple(rewriter.checks),
        outside=outside,
        classes=tuple(sorted(closed.classes)),
        catches=any(word in source for word in ("except", "suppress", "xfail", "AssertionError", "assertRaises(Exception")),
        skips="skip" in source,
        changes=any(word in source for word in ("builtins", "patch", "setattr")),
    )


def _imported_solutions(tree: ast.Module) -> set[str]:
    return {
        alias.asname or alias.name
        for part in ast.walk(tree)
        if isinstance(part, ast.Import)
        for alias in part.names
        if alias.name in SOLUTION_MODULES
    }


def _constant_names(tree: ast.Module, closed: ClosedNames) -> dict[str, ast.expr]:
    """Names that are bound once, to an expression that needs nothing of the solution, as `expected = [1, 2]`."""
    return {
        part.targets[0].id: part.value
        for part in ast.walk(tree)
        if isinstance(part, ast.Assign)
        and len(part.targets) == 1
        and isinstance(part.targets[0], ast.Name)
        and closed.bindings[part.targets[0].id] == 1
        and closed.holds(part.value)
    }


def _units(tree: ast.Module, rewriter: "_Rewriter", called: frozenset[str]) -> Iterator[Unit]:
    """The statements in order, then the test functions that they define."""
    calls_itself = test_units.calls_check_itself(tree)
    defined = [(statement, test_units.test_names(statement)) for statement in tree.body]
    bodies = {statement.name: statement for statement in tree.body if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef)}
    asserting = test_units.asserting_functions(tree)
    body = [statement for statement in tree.body if not test_units.is_main_guard(statement)]
    yield from _joined(_statement_unit(part, rewriter, called, test_units.is_test(part, asserting)) for part in body)
    if calls_itself:
        yield Unit(how="check", name="check", is_test=True, line=bodies["check"].lineno, must=_must(bodies["check"].body))
    for statement, names in defined:
        yield from _defined_units(statement, names)


def _joined(units: Iterator[Unit]) -> Iterator[Unit]:
    """Neighbours that neither test nor call anything, as one; and values in front of a test with it."""
    last: Unit | None = None
    for unit in units:
        if last is not None and not (last.is_test or last.calls_solution) and (last.is_value or not (unit.is_test or unit.calls_solution)):
            last = replace(unit, source=f"{last.source}\n{unit.source}", is_value=last.is_value and unit.is_value)
            continue
        if last is not None:
            yield last
        last = unit
    if last is not None:
        yield last


def _statement_unit(statement: ast.stmt, rewriter: "_Rewriter", called: frozenset[str], is_test: bool) -> Unit:
    uses = not isinstance(statement, ast.Import | ast.ImportFrom) and _mentions(statement, called)
    rewritten = rewriter.rewritten([statement])
    source = "\n".join(map(ast.unparse, rewritten))
    known = {"is_test": is_test, "line": statement.lineno, "calls_solution": uses, "is_value": _is_value(statement)}
    return Unit(how="statements", source=source, must=_must(rewritten), **known)


def _is_value(statement: ast.stmt) -> bool:
    if not isinstance(statement, ast.Assign) or not all(isinstance(target, ast.Name) for target in statement.targets):
        return False
    return not any(isinstance(part, ast.Name | ast.Call) for part in ast.walk(statement.value))


def _defined_units(statement: ast.stmt, names: list[str]) -> Iterator[Unit]:
    """`statement` has been rewritten in place."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
        for name in names:
            yield Unit(how="function", name=name, is_test=True, line=statement.lineno, must=_must(statement.body))
    elif isinstance(statement, ast.ClassDef):
        for name in names:
            method = next(part for part in statement.body if getattr(part, "name", "") == name)
            must = _must(method.body) if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef) else ()
            yield Unit(how="method", name=name, owner=statement.name, is_test=True, line=method.lineno, must=must)


def _mentions(tree: ast.AST, names: frozenset[str]) -> bool:
    return any(isinstance(part, ast.Name) and part.id in names for part in ast.walk(tree))


def _must(body: list[ast.stmt]) -> tuple[int, ...]:
    found: list[int] = []
    for statement in body:
        number = _check_number(statement)
        if number is not None:
            found.append(number)
        elif any(isinstance(part, ast.Return | ast.Break | ast.Continue) for part in ast.walk(statement)):
            break
    return tuple(found)


def _check_number(statement: ast.stmt) -> int | None:
    call = statement.value if isinstance(statement, ast.Expr) else None
    if isinstance(call, ast.Call) and isinstance(call.func, ast.Constant) and call.func.value == CHECK:
        return call.args[0].value  # type: ignore[attr-defined] # made below
    return None


class _Rewriter(ast.NodeTransformer):
    """Changes the source that runs beside the solution, and collects the checks that run outside."""

    def __init__(self, closed: ClosedNames, folded: dict[str, ast.expr], called: frozenset[str]) -> None:
        self._closed = closed
        self._folded = folded
        self._called = called
        self.checks: list[Check] = []
        self.used_inside: set[str] = set()
        """Names that the rewritten source looks up."""

    def rewritten(self, statements: list[ast.stmt]) -> list[ast.stmt]:
        found: list[ast.stmt] = []
        for statement in statements:
            node = self.visit(statement)
            found += node if isinstance(node, list) else [node]
        return found

    def visit(self, node: ast.AST) -> Any:
        return node if getattr(node, "is_made_here", False) else super().visit(node)

    def visit_Name(self, node: ast.Name) -> ast.Name:
        if isinstance(node.ctx, ast.Load):
            self.used_inside.add(node.id)
        return node

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        target = node.targets[0]
        if isinstance(target, ast.Name) and target.id in self._folded:
            return ast.copy_location(ast.Pass(), node)
        return self.generic_visit(node)

    def visit_For(self, node: ast.For) -> ast.AST | list[ast.stmt]:
        spelled = spelled_loop(node)
        elsewhere = {name for name in spelled.names if self._is_used_beside(name, node)} if spelled else set[str]()
        written = self._written_out(spelled, elsewhere) if spelled else None
        return self.generic_visit(node) if written is None else written

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        spelled = spelled_parameters(node)
        written = self._written_out(spelled, set()) if spelled else None
        if written is None:
            return self.generic_visit(node)
        node.decorator_list, node.body = [], written
        node.args.args = [argument for argument in node.args.args if argument.arg == "self"]
        return node

    def _is_used_beside(self, name: str, node: ast.For) -> bool:
        """Whether what a loop leaves in a name may be used: it is looked up elsewhere, and nobody else binds it."""
        within = sum(isinstance(part, ast.Name) and part.id == name and isinstance(part.ctx, ast.Load) for part in ast.walk(node))
        return self._closed.bindings[name] == 1 and self._closed.loads[name] > within

    def _written_out(self, spelled: SpelledRows, kept: set[str]) -> list[ast.stmt] | None:
        """The rows one after the other, with as many of their names outside as can be; None where all must be beside the solution."""
        hidden = {
            name
            for place, name in enumerate(spelled.names)
            if name not in kept and all(self._closed.holds(row[place]) for row in spelled.rows)
        }
        folded, checks, used = self._folded, len(self.checks), self.used_inside
        while hidden:
            self.used_inside = set()
            statements = [statement for row in spelled.rows for statement in self._row(spelled, row, hidden)]
            self._folded = folded
            if not hidden & self.used_inside:
                self.used_inside |= used
                return statements
            hidden -= self.used_inside
            del self.checks[checks:]
        self.used_inside = used
        return None

    def _row(self, spelled: SpelledRows, row: tuple[ast.expr, ...], hidden: set[str]) -> list[ast.stmt]:
        values = dict(zip(spelled.names, row, strict=True))
        self._folded = {**self._folded, **{name: values[name] for name in hidden}}
        given: list[ast.stmt] = [
            ast.fix_missing_locations(ast.copy_location(ast.Assign([ast.Name(name, ast.Store())], _again(value)), spelled.body[0]))
            for name, value in values.items()
            if name not in hidden
        ]
        return self.rewritten([*given, *copy.deepcopy(spelled.body)])

    def visit_Assert(self, node: ast.Assert) -> list[ast.stmt]:
        return self._checks_of(node.test, node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST | list[ast.stmt]:
        asserted = _unittest_assertion(node.value)
        return self.generic_visit(node) if asserted is None else self._checks_of(asserted, node)

    def visit_Lambda(self, node: ast.Lambda) -> ast.Lambda:
        """So that a StopIteration of the solution does not end an iteration of the tests early."""
        self.generic_visit(node)
        thunk = ast.Lambda(ast.arguments([], [], None, [], [], None, []), node.body)
        node.body = _call(GUARD, [thunk], node)
        return node

    def visit_Call(self, node: ast.Call) -> ast.Call:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id in ("map", "filter") and node.args and self._may_stop(node.args[0]):
            node.args[0] = _call(GUARDED, [node.args[0]], node)
        return node

    def _may_stop(self, function: ast.expr) -> bool:
        return not isinstance(function, ast.Lambda | ast.Starred | ast.Constant) and not self._closed.holds(function)

    def _checks_of(self, test: ast.expr, where: ast.stmt) -> list[ast.stmt]:
        return [ast.copy_location(ast.Expr(self._check(part, CHECK)), where) for part in _conjuncts(test)]

    def _check(self, test: ast.expr, kind: str) -> ast.Call:
        leaves: list[ast.expr] = []
        upper = self._decomposed(test, leaves)
        expecting = [leaf for leaf in leaves if not _mentions(leaf, self._called)]
        parameters = [ast.arg(_parameter(place)) for place in range(len(leaves))]
        number = len(self.checks)
        self.checks.append(
            Check(
                upper=_function(parameters, upper),
                is_inside=(len(leaves) > 1 and bool(expecting)) or any(map(self._decides, leaves)),
                asserts=kind == CHECK,
                line=test.lineno,
            )
        )
        inside = [self.visit(leaf) for leaf in leaves]
        return _call(kind, [ast.Constant(number), *inside], test)

    def _decides(self, leaf: ast.expr) -> bool:
        """Whether a value is the result of a question about the solution, and not of the solution."""
        if isinstance(leaf, ast.Call):
            return isinstance(leaf.func, ast.Name) and leaf.func.id in _QUESTIONS
        return isinstance(leaf, ast.Compare | ast.BoolOp | ast.IfExp)

    def _decomposed(self, node: ast.expr, leaves: list[ast.expr]) -> ast.expr:
        """The part of an expression that runs outside; what must run beside the solution goes to `leaves`."""
        if self._closed.holds(node, frozenset(self._folded)):
            return _Unfold(self._folded).visit(_again(node))
        parts = self._parts(node)
        if parts is None:
            leaves.append(self._with_atoms(node))
            return ast.Name(_parameter(len(leaves) - 1), ast.Load())
        return parts(leaves)

    def _parts(self, node: ast.expr) -> Callable[[list[ast.expr]], ast.expr] | None:
        """How to put an expression together from its parts; None for one that cannot be cut."""

        def each(nodes: list[ast.expr], leaves: list[ast.expr]) -> list[ast.expr]:
            return [self._decomposed(part, leaves) for part in nodes]

        match node:
            case ast.Compare() if self._is_separable(node):
                return lambda leaves: ast.Compare(self._decomposed(node.left, leaves), node.ops, each(node.comparators, leaves))
            case ast.BinOp():
                return lambda leaves: ast.BinOp(self._decomposed(node.left, leaves), node.op, self._decomposed(node.right, leaves))
            case ast.UnaryOp():
                return lambda leaves: ast.UnaryOp(node.op, self._decomposed(node.operand, leaves))
            case ast.List() | ast.Tuple() if not any(isinstance(part, ast.Starred) for part in node.elts):
                return lambda leaves: type(node)(each(node.elts, leaves), ast.Load())
            case ast.Call() if self._is_as_good_outside(node):
                return lambda leaves: ast.Call(node.func, each(node.args, leaves), node.keywords)
            case _:
                return None

    def _is_separable(self, node: ast.Compare) -> bool:
        sides = [node.left, *node.comparators]
        if any(isinstance(op, ast.Is | ast.IsNot) for op in node.ops):
            return len(sides) == 2 and any(isinstance(side, ast.Constant) and side.value in _SINGLETONS for side in sides)
        # A chain stops early, so only one of its parts may do something.
        return len(sides) == 2 or sum(not self._closed.holds(side, frozenset(self._folded)) for side in sides) == 1

    def _is_as_good_outside(self, node: ast.Call) -> bool:
        function = node.func
        named = isinstance(function, ast.Name) and function.id in _NUMERIC | self._closed.functions
        of_module = isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) and function.value.id in _NUMERIC_MODULES
        plain = not any(isinstance(part, ast.Starred) for part in node.args) and all(self._closed.holds(part) for part in node.keywords)
        return (named or of_module) and plain and self._closed.holds(function)

    def _with_atoms(self, node: ast.expr) -> ast.expr:
        """Comparisons inside of a condition become checks of their own."""
        match node:
            case ast.BoolOp():
                node.values = [self._condition(value) for value in node.values]
            case ast.UnaryOp(op=ast.Not()):
                node.operand = self._condition(node.operand)
            case ast.IfExp():
                node.test, node.body, node.orelse = map(self._condition, (node.test, node.body, node.orelse))
            case ast.Call(func=ast.Name(id="all" | "any"), args=[ast.GeneratorExp() | ast.ListComp() as parts]):
                parts.elt = self._condition(parts.elt)
            case ast.Call(func=ast.Name(id="all" | "any"), args=[ast.Call(func=ast.Name(id="map"), args=[ast.Lambda() as function, *_])]):
                function.body = self._condition(function.body)
            case _:
                pass
        return node

    def _condition(self, node: ast.expr) -> ast.expr:
        if isinstance(node, ast.Compare) and self._is_separable(node) and not self._closed.holds(node):
            return self._check(node, ATOM)
        return self._with_atoms(node)


class _Unfold(ast.NodeTransformer):
    """Puts the values of constant names in their places."""

    def __init__(self, folded: Mapping[str, ast.expr]) -> None:
        self._folded = folded

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return _again(self._folded[node.id]) if isinstance(node.ctx, ast.Load) and node.id in self._folded else node


def _again(node: ast.expr) -> ast.expr:
    """A copy, which may be changed."""
    return ast.parse(ast.unparse(node), mode="eval").body


def _conjuncts(test: ast.expr) -> Iterator[ast.expr]:
    """`a and b` holds where both do, in this order."""
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        for value in test.values:
            yield from _conjuncts(value)
    else:
        yield test


def _unittest_assertion(call: ast.expr) -> ast.expr | None:
    """What a method of a TestCase asserts, as an expression; None for other calls."""
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name)):
        return None
    template = _UNITTEST.get(call.func.attr)
    if template is None or call.func.value.id != "self" or any(keyword.arg != "msg" for keyword in call.keywords):
        return None
    wanted = 2 if "_b" in template else 1
    if not wanted <= len(call.args) <= wanted + ("Almost" not in call.func.attr) or any(
        isinstance(part, ast.Starred) for part in call.args
    ):
        return None
    places = {"_a": call.args[0], "_b": call.args[wanted - 1]}
    made = _Unfold(places).visit(ast.parse(template, mode="eval").body)
    return ast.fix_missing_locations(ast.copy_location(made, call))


def _parameter(place: int) -> str:
    return f"_oprime_{place}"


def _function(parameters: list[ast.arg], body: ast.expr) -> str:
    return ast.unparse(ast.Lambda(ast.arguments([], parameters, None, [], [], None, []), body))


def _call(name: str, arguments: list[ast.expr], where: ast.AST) -> ast.Call:
    """A call of a function that the solution's side puts in the place of a constant: no name leads to it."""
    made = ast.Call(ast.Constant(name), arguments, [])
    made.is_made_here = True  # type: ignore[attr-defined] # so that it is not rewritten again
    return ast.fix_missing_locations(ast.copy_location(made, where))
