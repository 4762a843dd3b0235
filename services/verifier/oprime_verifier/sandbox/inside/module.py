"""The module of a submission."""

import contextlib
import sys
import types
from typing import Any

from oprime_verifier.sandbox.inside.usual import USUAL

NAME = "solution"
"""Not `__main__`, so that a guarded main part does not run."""
FILE = f"{NAME}.py"
MAX_TEXT = 500


class SolutionModule:
    def __init__(self, arguments: dict[str, Any]) -> None:
        """`arguments`: `preamble`, trusted source that runs first; `unfinished`, the name in it that the source must define; `imports`,
        whether the usual names are there.
        """
        self.module = types.ModuleType(NAME)
        self.names: dict[str, Any] = self.module.__dict__
        self._unfinished = str(arguments.get("unfinished", ""))
        sys.modules[NAME] = self.module
        if arguments.get("imports"):
            self.names.update(USUAL)
        self.given = self._run_preamble(str(arguments.get("preamble", "")))
        """What the preamble defines."""

    def _run_preamble(self, source: str) -> dict[str, Any]:
        before = dict(self.names)
        with contextlib.suppress(Exception):  # what the task's own source lacks here is no fault of the response
            exec(compile(source, "prompt.py", "exec", dont_inherit=True), self.names)  # noqa: S102
        self.names.pop(self._unfinished, None)
        return {name: value for name, value in self.names.items() if before.get(name, self) is not value and name != "__builtins__"}

    def run(self, code: types.CodeType) -> BaseException | None:
        """What loading it raised."""
        try:
            exec(code, self.names)  # noqa: S102 - what the sandbox is for
        except BaseException as error:  # noqa: BLE001 - model code may raise anything
            return error
        return None

    def named(self, name: str) -> Any:
        """Raises NameError."""
        if name not in self.names:
            raise NameError(f"name '{name}' is not defined")
        return self.names[name]

    def entry(self, target: dict[str, Any]) -> Any:
        """`{"function": f}`: a method of `Solution` where there is such a class with such a method, else a function;
        `{"name": Solution, "new": True, "path": [f]}`.
        """
        if "function" in target:
            solution = self.names.get("Solution")
            if isinstance(solution, type) and hasattr(solution, target["function"]):
                return getattr(solution(), target["function"])
            return self.named(target["function"])
        found = self.named(target["name"])
        if target.get("new"):
            found = found()
        for name in target.get("path", ()):
            found = getattr(found, name)
        return found
