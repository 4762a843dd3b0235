"""The few parts of pytest that test files of code data sets use, for a process that has no packages."""

import inspect
import math
import re
import types
from collections.abc import Callable
from typing import Any

from oprime_verifier.sandbox.inside.remote import Remote


class Skipped(Exception):  # noqa: N818 - not an error
    pass


def module() -> types.ModuleType:
    made = types.ModuleType("pytest")
    mark = _Mark()
    made.__dict__.update(
        raises=_Raises, approx=_Approx, mark=mark, skip=_skip, fail=_fail, main=lambda *_: 0, param=lambda *values, **_: values
    )
    return made


def run_function(function: Callable[..., Any], *first: Any) -> None:
    """Once, or once for each row of its `parametrize` marks. Raises what the test raises, TypeError for a fixture."""
    rows = getattr(function, "parameters", [{}])
    wanted = list(inspect.signature(function).parameters)[len(first) :]
    for row in rows:
        missing = [name for name in wanted if name not in row]
        if missing:
            raise TypeError(f"the test needs the fixture {missing[0]!r}; fixtures are not supported")
        function(*first, **row)


def run_method(owner: type, name: str) -> None:
    """One method of a test class, in the style of pytest or of unittest."""
    if hasattr(owner, "assertEqual"):
        case = owner(name)
        case.setUp()
        try:
            getattr(case, name)()
        finally:
            case.tearDown()
        return
    instance = owner()
    if hasattr(instance, "setup_method"):
        instance.setup_method()
    run_function(getattr(owner, name), instance)


def _skip(reason: str = "") -> None:
    raise Skipped(reason)


def _fail(reason: str = "") -> None:
    raise AssertionError(reason)


class _Mark:
    def parametrize(self, names: Any, rows: Any, **_: Any) -> Callable[[Any], Any]:
        keys = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
        made = [dict(zip(keys, row if len(keys) > 1 else _only(row), strict=True)) for row in rows]

        def mark(function: Any) -> Any:
            function.parameters = [{**row, **other} for row in made for other in getattr(function, "parameters", [{}])]
            return function

        return mark

    def __getattr__(self, _name: str) -> Any:
        return lambda *found, **_: found[0] if found and callable(found[0]) else lambda function: function


def _only(row: Any) -> tuple[Any]:
    return (row,)


class _Raises:
    def __init__(
        self, expected: Any, call: Callable[..., Any] | None = None, *arguments: Any, match: str | None = None, **keywords: Any
    ) -> None:
        self._expected = expected if isinstance(expected, tuple) else (expected,)
        self._match = match
        self.value: BaseException | None = None
        if call is not None:
            with self:
                call(*arguments, **keywords)

    def __enter__(self) -> "_Raises":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: Any) -> bool:
        if error is None or kind is None:
            raise AssertionError(f"nothing was raised; expected {self._expected}")
        self.value = error
        if not any(self._fits(kind, expected) for expected in self._expected):
            return False
        if self._match is not None and not re.search(self._match, str(error)):
            raise AssertionError("the message does not match")
        return True

    @staticmethod
    def _fits(kind: type[BaseException], expected: Any) -> bool:
        if isinstance(expected, Remote):
            return expected._target.get("name") == kind.__name__
        return issubclass(kind, expected)

    @property
    def type(self) -> Any:
        return type(self.value)


class _Approx:
    """Equal within a tolerance, inside lists, tuples and dictionaries too."""

    def __init__(self, expected: Any, rel: float | None = None, abs: float | None = None, nan_ok: bool = False) -> None:
        self._expected = expected
        self._rel = 1e-6 if rel is None and abs is None else (rel or 0.0)
        self._abs = 1e-12 if abs is None else abs
        self._nan_ok = nan_ok

    def __eq__(self, other: object) -> bool:
        return self._near(other, self._expected)

    __hash__ = None  # type: ignore[assignment]

    def _near(self, actual: Any, expected: Any) -> bool:
        if isinstance(expected, dict):
            return (
                isinstance(actual, dict) and actual.keys() == expected.keys() and all(self._near(actual[k], v) for k, v in expected.items())
            )
        if isinstance(expected, list | tuple):
            return isinstance(actual, list | tuple) and len(actual) == len(expected) and all(map(self._near, actual, expected))
        if isinstance(expected, int | float) and isinstance(actual, int | float):
            if self._nan_ok and math.isnan(expected) and math.isnan(actual):
                return True
            return actual == expected or math.isclose(actual, expected, rel_tol=self._rel, abs_tol=self._abs)
        return not isinstance(actual, Remote) and actual == expected
