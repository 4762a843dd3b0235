"""The parts of pytest that test files of code data sets use, for a process that has no packages."""

import math
import re
import types
from collections.abc import Callable
from itertools import product
from typing import Any


class Skipped(Exception):  # noqa: N818 - not an error
    pass


class UnusableError(Exception):
    """The test file asks for what is not here: no fault of the response."""


class Mark:
    """A mark on a test function, as `pytest.mark.skip`."""

    def __init__(self, name: str, arguments: tuple[Any, ...] = (), keywords: dict[str, Any] | None = None) -> None:
        self.name = name
        self.args = arguments
        self.kwargs = keywords or {}

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        if len(arguments) == 1 and not keywords and isinstance(arguments[0], types.FunctionType | type):
            return self._on(arguments[0])
        return Mark(self.name, arguments, keywords)

    def _on(self, function: Any) -> Any:
        function.pytestmark = [*getattr(function, "pytestmark", []), self]
        return function


class _Marks:
    def __getattr__(self, name: str) -> Mark:
        return Mark(name)


class _Row:
    """A row of `parametrize` with marks or a name."""

    def __init__(self, *values: Any, marks: Any = (), **_: Any) -> None:
        self.values = values
        self.marks = list(marks) if isinstance(marks, list | tuple) else [marks]


def marks_of(function: Any, name: str) -> list[Mark]:
    marks = getattr(function, "pytestmark", [])
    return [mark for mark in (marks if isinstance(marks, list) else [marks]) if mark.name == name]


def rows_of(function: Any) -> list[dict[str, Any]]:
    """The arguments of each run of a test: one for each combination of the rows of its `parametrize` marks."""
    tables = [_rows(*mark.args, **mark.kwargs) for mark in reversed(marks_of(function, "parametrize"))]
    return [{name: value for row in rows for name, value in row.items()} for rows in product(*tables)]


def _rows(argnames: Any, argvalues: Any, **_: Any) -> list[dict[str, Any]]:
    names = [name.strip() for name in argnames.split(",") if name.strip()] if isinstance(argnames, str) else list(argnames)
    rows: list[dict[str, Any]] = []
    for row in argvalues:
        if isinstance(row, _Row) and any(mark.name == "skip" for mark in row.marks):
            continue
        values = row.values if isinstance(row, _Row) else (row if len(names) > 1 else (row,))
        rows.append(dict(zip(names, values, strict=True)))
    return rows


def fixture(function: Callable[..., Any] | None = None, **settings: Any) -> Any:
    def mark(made: Any) -> Any:
        made.fixture_settings = settings
        return made

    return mark if function is None else mark(function)


def module() -> types.ModuleType:
    made = types.ModuleType("pytest")
    made.__dict__.update(
        raises=Raises, approx=Approx, mark=_Marks(), param=_Row, fixture=fixture, skip=_skip, fail=_fail, xfail=_skip, main=lambda *_: 0,
        importorskip=_import,
    )  # fmt: skip
    return made


def _import(name: str, **_: Any) -> Any:
    try:
        return __import__(name)
    except ImportError as error:
        raise Skipped(str(error)) from error


def _skip(reason: str = "", **_: Any) -> None:
    raise Skipped(reason)


def _fail(reason: str = "", **_: Any) -> None:
    raise AssertionError(reason)


class Raises:
    """`pytest.raises`, and what it gives for the block."""

    def __init__(
        self, expected: Any, call: Callable[..., Any] | None = None, *arguments: Any, match: str | None = None, **keywords: Any
    ) -> None:
        self._expected = expected
        self._match = match
        self.value: BaseException | None = None
        if call is not None:
            with self:
                call(*arguments, **keywords)

    def __enter__(self) -> "Raises":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: Any) -> bool:
        if error is None or kind is None:
            raise AssertionError("nothing was raised")
        self.value = error
        if not issubclass(kind, self._expected):
            return False
        return self._match is None or self.match(self._match)

    def match(self, pattern: str) -> bool:
        if not re.search(pattern, str(self.value)):
            raise AssertionError("the message does not match")
        return True

    @property
    def type(self) -> Any:
        return type(self.value)


class Approx:
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
        return bool(actual == expected)
