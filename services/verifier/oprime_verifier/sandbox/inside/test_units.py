"""Which parts of a test source are tests: one rule for who counts them and for who runs them."""

import ast
from collections.abc import Iterator


def count_tests(tree: ast.Module) -> int:
    own = sum(is_test(statement) for statement in tree.body if not is_main_guard(statement))
    return own + calls_check_itself(tree) + sum(len(test_names(statement)) for statement in tree.body)


def is_test(statement: ast.stmt) -> bool:
    """An assert, also inside a loop or another block; or a call of a test function."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        function = statement.value.func
        return isinstance(function, ast.Name) and (function.id.startswith("test") or function.id == "check")
    return any(isinstance(part, ast.Assert) for part in _own_parts(statement))


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
    if isinstance(statement, ast.FunctionDef):
        return [statement.name] if statement.name.startswith("test") else []
    if isinstance(statement, ast.ClassDef) and _has_tests(statement):
        return [method.name for method in statement.body if isinstance(method, ast.FunctionDef) and method.name.startswith("test")]
    return []


def _has_tests(statement: ast.ClassDef) -> bool:
    return statement.name.startswith("Test") or any("TestCase" in ast.unparse(base) for base in statement.bases)


def _own_parts(statement: ast.stmt) -> Iterator[ast.AST]:
    """What runs when the statement does: a definition only binds a name."""
    if not isinstance(statement, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
        yield from ast.walk(statement)
