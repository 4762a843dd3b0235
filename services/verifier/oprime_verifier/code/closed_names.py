"""Which expressions of a test source need nothing of the solution, and can therefore be evaluated where the solution is not."""

import ast
import builtins
import sys
from collections import Counter
from collections.abc import Iterable, Iterator

_BUILTINS = frozenset(
    {
        "abs", "all", "any", "ascii", "bin", "bool", "bytearray", "bytes", "callable", "chr", "complex", "dict", "divmod", "enumerate",
        "filter", "float", "format", "frozenset", "hex", "int", "isinstance", "issubclass", "len", "list", "map", "max", "min", "oct",
        "ord", "pow", "range", "repr", "reversed", "round", "set", "slice", "sorted", "str", "sum", "tuple", "type", "zip", "Ellipsis",
        "NotImplemented",
    }
) | {name for name, value in vars(builtins).items() if isinstance(value, type) and issubclass(value, BaseException)}  # fmt: skip
_MODULES = frozenset(
    {
        "bisect", "calendar", "cmath", "collections", "copy", "dataclasses", "datetime", "decimal", "enum", "fractions", "functools",
        "hashlib", "heapq", "itertools", "json", "math", "numbers", "operator", "pytest", "re", "statistics", "string", "textwrap",
        "typing",
    }
)  # fmt: skip
"""Modules whose functions give the same wherever they run."""
_OFFERED = frozenset({"Counter", "OrderedDict", "defaultdict", "deque", "namedtuple", "inf", "nan"})
"""What tests may use without an import (`inside/offered.py`)."""
_NEVER = (ast.Await, ast.Yield, ast.YieldFrom, ast.NamedExpr)
Definition = ast.FunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom | ast.Assign


class ClosedNames:
    """Names that mean the same with and without the solution."""

    def __init__(self, sources: Iterable[ast.Module], solution: frozenset[str]) -> None:
        """`sources`: the task's own, in the order in which they run; `solution`: what the solution defines."""
        bodies = [statement for tree in sources for statement in tree.body]
        self.bindings = Counter(name for statement in bodies for part in ast.walk(statement) for name in _bound_by(part))
        self.loads = Counter(
            part.id for statement in bodies for part in ast.walk(statement) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load)
        )
        self.names = {name for name in _usual() if name not in self.bindings} - solution
        self.definitions: list[Definition] = []
        """Statements that bind the rest of `names`, in their order."""
        self._add_definitions([statement for statement in bodies if isinstance(statement, Definition)], solution)

    @property
    def functions(self) -> set[str]:
        return {statement.name for statement in self.definitions if isinstance(statement, ast.FunctionDef)}

    @property
    def classes(self) -> set[str]:
        return {statement.name for statement in self.definitions if isinstance(statement, ast.ClassDef)}

    def holds(self, expression: ast.AST, also: frozenset[str] = frozenset()) -> bool:
        """Whether an expression is closed; `also` are further names that are."""
        own = {name for part in ast.walk(expression) for name in _bound_by(part)}
        for part in ast.walk(expression):
            if isinstance(part, _NEVER) or (isinstance(part, ast.Name) and part.id not in self.names | also | own):
                return False
        return True

    def _add_definitions(self, candidates: list[Definition], solution: frozenset[str]) -> None:
        texts: dict[str, Counter[str]] = {}
        for statement in candidates:
            for name in _defined_by(statement):
                texts.setdefault(name, Counter())[ast.unparse(statement)] += 1
        # A name that is bound in two ways, or in an inner scope too, may mean either.
        single = {
            name for name, known in texts.items() if len(known) == 1 and known.total() == self.bindings[name] and name not in solution
        }
        left = [statement for statement in candidates if set(_defined_by(statement)) <= single]
        found: set[int] = set()
        while True:
            new = [statement for statement in left if id(statement) not in found and self._is_closed(statement)]
            if not new:
                break
            found |= {id(statement) for statement in new}
            self.names |= {name for statement in new for name in _defined_by(statement)}
        self.definitions = [statement for statement in left if id(statement) in found]

    def _is_closed(self, statement: Definition) -> bool:
        if isinstance(statement, ast.Import):
            return all(alias.name.partition(".")[0] in _MODULES for alias in statement.names)
        if isinstance(statement, ast.ImportFrom):
            return not statement.level and (statement.module or "").partition(".")[0] in _MODULES
        if isinstance(statement, ast.Assign):
            return all(isinstance(target, ast.Name) for target in statement.targets) and _is_unchangeable(statement.value)
        return not _does_more(statement) and self.holds(statement, frozenset(_bound_by(statement)))


def _usual() -> frozenset[str]:
    return _BUILTINS | (_MODULES & sys.stdlib_module_names) | _OFFERED | _typing_names()


def _typing_names() -> frozenset[str]:
    import typing

    return frozenset(name for name in typing.__all__ if name[0].isupper())


def _is_unchangeable(value: ast.expr) -> bool:
    if isinstance(value, ast.Tuple):
        return all(map(_is_unchangeable, value.elts))
    if isinstance(value, ast.UnaryOp):
        return _is_unchangeable(value.operand)
    return isinstance(value, ast.Constant)


def _does_more(definition: ast.FunctionDef | ast.ClassDef) -> bool:
    """Whether it tests something, or changes names outside of itself."""
    return any(isinstance(part, ast.Assert | ast.Global | ast.Nonlocal | ast.AsyncFunctionDef) for part in ast.walk(definition))


def _defined_by(statement: Definition) -> Iterator[str]:
    if isinstance(statement, ast.Assign):
        yield from (name for target in statement.targets for part in ast.walk(target) for name in _bound_by(part))
    else:
        yield from _bound_by(statement)


def _bound_by(part: ast.AST) -> Iterator[str]:
    """Names that a node binds by itself."""
    if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield part.name
    elif isinstance(part, ast.Import | ast.ImportFrom):
        yield from ((alias.asname or alias.name).partition(".")[0] for alias in part.names)
    elif isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store | ast.Del):
        yield part.id
    elif isinstance(part, ast.arg):
        yield part.arg
    elif isinstance(part, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and part.name:
        yield part.name
