"""Which parts of a test source are tests: one rule for who counts them and for who runs them."""

import ast
from collections.abc import Iterator

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def count_tests(tree: ast.Module) -> int:
    asserting = asserting_functions(tree)
    own = sum(is_test(statement, asserting) for statement in tree.body if not is_main_guard(statement))
    return own + calls_check_itself(tree) + sum(len(test_names(statement)) for statement in tree.body)


def asserting_functions(tree: ast.Module) -> frozenset[str]:
    """Functions with asserts in them."""
    return frozenset(
        statement.name for statement in tree.body if isinstance(statement, _FUNCTIONS) and any(map(_asserts, ast.walk(statement)))
    )


def is_test(statement: ast.stmt, asserting: frozenset[str]) -> bool:
    """An assert, also inside a loop or another block; a block that must raise; or a call of a function that asserts."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        function = statement.value.func
        named = isinstance(function, ast.Name) and (function.id.startswith("test") or function.id == "check")
        return named or any(isinstance(part, ast.Name) and part.id in asserting for part in ast.walk(statement))
    return any(map(_asserts, _own_parts(statement)))


def _asserts(part: ast.AST) -> bool:
    if isinstance(part, ast.With):
        calls = [item.context_expr.func for item in part.items if isinstance(item.context_expr, ast.Call)]
        return any(isinstance(call, ast.Attribute | ast.Name) and ast.unparse(call).endswith("raises") for call in calls)
    return isinstance(part, ast.Assert)


def is_main_guard(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and "__name__" in ast.unparse(statement.test)


def calls_check_itself(tree: ast.Module) -> bool:
    """Whether `check(candidate)` is defined and nobody calls it, as in HumanEval."""
    defined = any(isinstance(statement, ast.FunctionDef) and statement.name == "check" for statement in tree.body)
    called = any(
        isinstance(part, ast.Call) and isinstance(part.func, ast.Name) and part.func.id == "check"
        for statement in tree.body
        for part in _own_parts(statement)
    )
    return defined and not called


def test_names(statement: ast.stmt) -> list[str]:
    """Test functions that a statement defines and pytest would run: itself, or its methods."""
    if isinstance(statement, _FUNCTIONS):
        return [statement.name] if statement.name.startswith("test") else []
    if isinstance(statement, ast.ClassDef) and _has_tests(statement):
        return [method.name for method in statement.body if isinstance(method, _FUNCTIONS) and method.name.startswith("test")]
    return []


def _has_tests(statement: ast.ClassDef) -> bool:
    return statement.name.startswith("Test") or any("TestCase" in ast.unparse(base) for base in statement.bases)


def _own_parts(statement: ast.stmt) -> Iterator[ast.AST]:
    """What runs when the statement does: a definition only binds a name."""
    if not isinstance(statement, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
        yield from ast.walk(statement)
