"""Run the task's own test source. The solution is not here: its names are stand-ins (`remote.py`), so that neither expected values nor
comparisons share a process with model code.
"""

import ast
import contextlib
import socket
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

from oprime_verifier.sandbox.inside import call, checker, little_pytest, test_units
from oprime_verifier.sandbox.inside.remote import Link, Remote, SolutionEndedError
from oprime_verifier.sandbox.inside.stage import compile_source

ENTRIES_BESIDE = (checker,)
"""Entry modules that are loaded with this one."""
SOLUTION_MODULES = ("solution", "main", "submission", "answer", "program")
"""Names under which tests import the solution."""
Unit = tuple[bool, Callable[[], Any]]
"""Something to run, and whether it is a test."""
_OFFERED = ("Counter", "OrderedDict", "defaultdict", "deque", "namedtuple", "inf", "nan")
"""Names that tests may use without an import; none of them is the name of a function one writes."""


def main(source: str, arguments: dict[str, Any], channel: socket.socket | None) -> None:
    """`arguments`: `prompt` (trusted source with helpers), `names` (what the solution defines), `exceptions` (of those, the ones used as
    exception classes), `entry_point`, `stop` (at the first failure), `nonce`.
    """
    assert channel is not None  # noqa: S101 - the job's kind needs one
    compile_source(source, "tests.py")
    link = Link(channel)
    suite = _Suite(link, arguments)
    try:
        suite.prepare()
        units = list(suite.units(ast.parse(source)))
    except Exception as error:  # noqa: BLE001 - the task's own source is broken
        link.tell({"op": "broken", "error": _shown(error)})
        return
    with contextlib.suppress(_StopError):
        for is_test, unit in units:
            suite.run(is_test, unit)
    link.tell({"op": "done", "nonce": arguments["nonce"]})


class _StopError(Exception):
    pass


class _Suite:
    def __init__(self, link: Link, arguments: dict[str, Any]) -> None:
        self._link = link
        self._arguments = arguments
        self._globals: dict[str, Any] = {"__name__": "tests", "__builtins__": __builtins__}
        self._index = 0

    def prepare(self) -> None:
        """Modules and names that the tests may use: usual ones, the prompt's helpers, the solution's stand-ins."""
        names: list[str] = self._arguments["names"]
        self._globals.update({name: value for name, value in call.USUAL.items() if _is_offered(name, value)})
        sys.modules["pytest"] = little_pytest.module()
        if prompt := self._arguments.get("prompt"):
            self._run_prompt(prompt)
        self._link.classes = {name: kind for name, kind in self._globals.items() if isinstance(kind, type) and kind.__module__ == "tests"}
        for name in names:
            self._globals[name] = self._stand_in(name)
        if entry_point := self._arguments.get("entry_point"):
            self._globals["candidate"] = self._entry(entry_point)
        for module in SOLUTION_MODULES:
            sys.modules[module] = self._solution_module(module, names)

    def _run_prompt(self, prompt: str) -> None:
        # A prompt that does not run offers no helpers; often its last function has no body.
        with contextlib.suppress(Exception):
            exec(compile(prompt, "prompt.py", "exec"), self._globals)  # noqa: S102 - the task's own

    def _stand_in(self, name: str) -> Any:
        if name in self._arguments["exceptions"]:
            return self._link.exception(name, [])
        return Remote(self._link, {"name": name}, "")

    def _entry(self, entry_point: str) -> Any:
        """`f`, or `Solution().f`."""
        owner, _, method = entry_point.rpartition(".")
        if not owner:
            return Remote(self._link, {"name": method})
        return Remote(self._link, {"name": owner.removesuffix("()"), "new": owner.endswith("()"), "path": [method]})

    def _solution_module(self, module_name: str, names: list[str]) -> types.ModuleType:
        module = types.ModuleType(module_name)
        module.__dict__["__all__"] = list(names)
        module.__dict__["__getattr__"] = self._imported
        return module

    def _imported(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._stand_in(name)

    def units(self, tree: ast.Module) -> Iterator[Unit]:
        """The statements in order, then the test functions and test classes that they define."""
        for statement in tree.body:
            if not test_units.is_main_guard(statement):
                yield test_units.is_test(statement), self._statement(statement)
        yield False, self._link_classes
        if test_units.calls_check_itself(tree):
            yield True, lambda: self._globals["check"](self._globals["candidate"])
        for statement in tree.body:
            yield from self._defined_tests(statement)

    def _statement(self, statement: ast.stmt) -> Callable[[], Any]:
        code = compile(ast.Module([statement], []), "tests.py", "exec", dont_inherit=True)
        return lambda: exec(code, self._globals)  # noqa: S102 - the task's own

    def _link_classes(self) -> None:
        own = {name: kind for name, kind in self._globals.items() if isinstance(kind, type) and kind.__module__ == "tests"}
        self._link.classes.update(own)

    def _defined_tests(self, statement: ast.stmt) -> Iterator[Unit]:
        for name in test_units.test_names(statement):
            if isinstance(statement, ast.FunctionDef):
                yield True, lambda name=name: little_pytest.run_function(self._globals[name])
            elif isinstance(statement, ast.ClassDef):
                yield True, lambda owner=statement.name, name=name: little_pytest.run_method(self._globals[owner], name)

    def run(self, is_test: bool, unit: Callable[[], Any]) -> None:
        failure = None
        try:
            unit()
        except SolutionEndedError:
            failure = {"kind": "ended"}
        except AssertionError as error:
            failure = {"kind": "runtime" if getattr(error, "from_solution", False) else "wrong", "error": "AssertionError"}
        except little_pytest.Skipped:
            failure = None
        except BaseException as error:  # noqa: BLE001 - whatever the tests raise
            failure = {"kind": "runtime" if getattr(error, "from_solution", False) else "error", "error": _shown(error)}
        if is_test or failure is not None:
            self._link.tell({"op": "test", "index": self._index, "is_test": is_test, "failure": failure})
        self._index += is_test
        if failure is not None and (self._arguments["stop"] or not is_test):
            raise _StopError


def _is_offered(name: str, value: Any) -> bool:
    return isinstance(value, types.ModuleType) or name in _OFFERED or getattr(value, "__module__", "") == "typing"


def _shown(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:500]
