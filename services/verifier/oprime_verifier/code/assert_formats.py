"""Test source: asserts, `check(candidate)`, test functions; HumanEval, MBPP, LeetCode, KodCode, code-r1, verl, open-instruct."""

import ast
import builtins
import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from oprime_verifier.code.assert_plan import SOLUTION_MODULES
from oprime_verifier.code.prompts import parse, parsed, runnable
from oprime_verifier.code.suite import AssertSource, BadTaskError, Kind, TestSuite
from oprime_verifier.code.test_units import count_tests

MAX_SOURCE_CHARS = 5_000_000
_USUAL_NAMES = frozenset({"Counter", "OrderedDict", "defaultdict", "deque", "namedtuple", "inf", "nan", "candidate"})
_TYPING_NAMES = frozenset({"Any", "Callable", "Deque", "Dict", "FrozenSet", "Iterable", "Iterator", "List", "Optional", "Sequence", "Set",
                           "Tuple", "Type", "Union"})  # fmt: skip
_LEETCODE_CLASSES = {
    "ListNode": "class ListNode:\n    def __init__(self, val=0, next=None):\n        self.val = val\n        self.next = next\n",
    "TreeNode": "class TreeNode:\n    def __init__(self, val=0, left=None, right=None):\n"
    "        self.val = val\n        self.left = left\n        self.right = right\n",
}


@lru_cache(maxsize=2)
def _parts(tree: ast.AST) -> tuple[ast.AST, ...]:
    """All nodes. Walking is most of the cost of a long test source, and several rules walk."""
    return tuple(ast.walk(tree))


def looks_like_tests(text: str) -> bool:
    """Whether text that is no JSON is Python with a test in it."""
    tree = parsed(text)
    return tree is not None and count_tests(tree) > 0


def assert_suite(source: str, row: Mapping[str, Any], field: str) -> TestSuite:
    """Raises BadTaskError."""
    tree = _parsed(source, field)
    prompt = str(row.get("prompt") or "")
    preamble = _usual_classes(tree, runnable(prompt))
    prompt_tree = parse(preamble)
    tests = count_tests(tree)
    if not tests:
        raise BadTaskError(f"{field} has no assert, no check(candidate) and no test function")
    entry_point = str(row.get("entry_point") or "")
    helpers = _defined(prompt_tree) - _unfinished(prompt_tree) - {entry_point}
    names = _needed(tree, helpers, entry_point)
    return TestSuite(
        kind=Kind.ASSERTS,
        asserts=AssertSource(
            source=source,
            names=tuple(sorted(names)),
            calls_candidate="candidate" in source,
            tests=tests,
        ),
        entry_point=entry_point,
        prompt=prompt if runnable(prompt) else "",
        preamble=preamble,
    )


def _usual_classes(tree: ast.Module, preamble: str) -> str:
    """Put before the prompt what LeetCode defines and some data sets leave out."""
    used = {part.id for part in _parts(tree) if isinstance(part, ast.Name)}
    known = _defined(tree) | _defined(parse(preamble))
    return "".join(source for name, source in _LEETCODE_CLASSES.items() if name in used - known) + preamble


def _parsed(source: str, field: str) -> ast.Module:
    if len(source) > MAX_SOURCE_CHARS:
        raise BadTaskError(f"{field} has {len(source)} characters; at most {MAX_SOURCE_CHARS} are run")
    try:
        return parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BadTaskError(f"{field} is not Python: {error}") from error


def _defined(tree: ast.AST) -> set[str]:
    """Every name that is bound anywhere: a name of an inner scope hides an outer one often enough."""
    names: set[str] = set()
    for part in _parts(tree):
        if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(part.name)
        elif isinstance(part, ast.Import | ast.ImportFrom):
            if not _imports_solution(part):
                names |= {(alias.asname or alias.name).partition(".")[0] for alias in part.names}
        elif isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store | ast.Del):
            names.add(part.id)
        elif isinstance(part, ast.arg):
            names.add(part.arg)
        elif isinstance(part, ast.ExceptHandler) and part.name:
            names.add(part.name)
    return names


def _imports_solution(part: ast.Import | ast.ImportFrom) -> bool:
    return isinstance(part, ast.ImportFrom) and part.module in SOLUTION_MODULES


def _unfinished(tree: ast.Module) -> set[str]:
    """Functions without more than a docstring: what the response has to write."""
    return {
        statement.name
        for statement in tree.body
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and _is_stub(statement)
    }


def _is_stub(definition: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> bool:
    inner = [part for part in definition.body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)]
    rest = [part for part in definition.body if part not in inner]
    if inner and (not isinstance(definition, ast.ClassDef) or not any(_is_stub(method) for method in inner)):
        return False
    return all(isinstance(part, ast.Pass) or (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant)) for part in rest)


def _needed(tree: ast.Module, helpers: set[str], entry_point: str) -> set[str]:
    """Names that the tests use and nobody but the solution can define."""
    used = {part.id for part in _parts(tree) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load)}
    imported = {
        alias.asname or alias.name
        for part in _parts(tree)
        if isinstance(part, ast.ImportFrom) and _imports_solution(part)
        for alias in part.names
    }
    free = (used | imported) - _defined(tree) - helpers
    names = {name for name in free if not _is_usual(name)} - {"*"}
    own = entry_point.partition("(")[0].partition(".")[0]
    if own and own not in _defined(tree):
        names.add(own)
    if names or own:
        return names - {"candidate"}
    # Only names of built-in functions are left: the one under test is called like one of them (`sum` of MBPP).
    return {name for name in _called_first(tree) if name in free}


def _is_usual(name: str) -> bool:
    return hasattr(builtins, name) or name in _USUAL_NAMES or name in _TYPING_NAMES or name in sys.stdlib_module_names or name == "pytest"


def _called_first(tree: ast.Module) -> Iterator[str]:
    """The function that an assert calls first, on the left."""
    for part in _parts(tree):
        if isinstance(part, ast.Assert):
            left = part.test.left if isinstance(part.test, ast.Compare) else part.test
            if isinstance(left, ast.Call) and isinstance(left.func, ast.Name):
                yield left.func.id
