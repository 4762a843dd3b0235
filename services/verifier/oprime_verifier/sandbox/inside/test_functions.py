"""Run a test function or a method of a test class, with its fixtures, as pytest and unittest would."""

import contextlib
import importlib
import inspect
import io
import logging
import sys
import types
import unittest
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any, NamedTuple

from oprime_verifier.sandbox.inside.little_pytest import Skipped, UnusableError, marks_of, rows_of

_FILES = ("tmp_path", "tmpdir", "tmp_path_factory", "tmpdir_factory")
_MISSING: Any = object()


class TestFunctions:
    """Those of one test file; what is made once for a class or the file is kept."""

    __test__ = False

    def __init__(self, names: dict[str, Any]) -> None:
        self._names = names
        self._kept: dict[Any, Any] = {}

    def run(self, function: Callable[..., Any], owner: Any = None) -> None:
        """Once for each row of its `parametrize` marks and its fixtures' params. Raises what the test raises, UnusableError, Skipped."""
        if any(marks_of(function, "skip")) or any(mark.args[0] for mark in marks_of(function, "skipif")):
            raise Skipped
        bound = function if owner is None else getattr(owner, function.__name__)
        self._once("module", lambda: self._names.get("setup_module", lambda: None)())
        for row in rows_of(function):
            for params in self._params(bound, owner, row):
                self._run_once(bound, owner, row, params, expects_failure=bool(marks_of(function, "xfail")))

    def run_method(self, kind: type, name: str) -> None:
        if issubclass(kind, unittest.TestCase):
            self._run_case(kind, name)
            return
        self._once((kind, "class"), lambda: getattr(kind, "setup_class", lambda: None)())
        owner = kind()
        self._call_if_there(owner, "setup_method", getattr(kind, name))
        try:
            self.run(getattr(kind, name), owner)
        finally:
            self._call_if_there(owner, "teardown_method", getattr(kind, name))

    def _run_case(self, kind: type[unittest.TestCase], name: str) -> None:
        self._once((kind, "class"), kind.setUpClass)
        result = _CaseResult()
        kind(name).run(result)
        if result.error is not None:
            raise result.error
        if result.skipped:
            raise Skipped().with_traceback(result.skipped_at)

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def _around(self, function: Any, ending: contextlib.ExitStack) -> None:
        """`setup_function` and `teardown_function` of the file."""
        places = types.SimpleNamespace(
            **{name: self._names[name] for name in ("setup_function", "teardown_function") if name in self._names}
        )
        self._call_if_there(places, "setup_function", function)
        ending.callback(self._call_if_there, places, "teardown_function", function)

    @staticmethod
    def _call_if_there(owner: Any, name: str, method: Any) -> None:
        found = getattr(owner, name, None)
        if found is not None:
            found(*([method] if inspect.signature(found).parameters else []))

    def _params(self, function: Callable[..., Any], owner: Any, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        found: dict[str, list[Any]] = {}
        for name in self._wanted(function, owner, row):
            self._collect_params(name, owner, found)
        for values in product(*found.values()):
            yield dict(zip(found, values, strict=True))

    def _collect_params(self, name: str, owner: Any, found: dict[str, list[Any]]) -> None:
        made = self._fixture(name, owner)
        if made is None:
            return
        if made.settings.get("params") is not None:
            found[name] = list(made.settings["params"])
        for other in _parameters(made.function):
            if other != name:
                self._collect_params(other, owner, found)

    def _wanted(self, function: Callable[..., Any], owner: Any, row: dict[str, Any]) -> list[str]:
        used = [name for mark in marks_of(function, "usefixtures") for name in mark.args]
        always = [name for name, made in self._fixtures(owner) if made.settings.get("autouse")]
        return [*always, *used, *(name for name in _parameters(function) if name not in row)]

    def _fixtures(self, owner: Any) -> Iterator[tuple[str, "_Fixture"]]:
        places = [(name, value, ()) for name, value in dict.items(self._names)]
        if owner is not None:
            places += [(name, getattr(type(owner), name), (owner,)) for name in dir(type(owner))]
        for name, value, first in places:
            settings = getattr(value, "__dict__", {}).get("fixture_settings")
            if settings is not None:
                yield settings.get("name") or name, _Fixture(value, settings, first)

    def _fixture(self, name: str, owner: Any) -> "_Fixture | None":
        return next((made for known, made in self._fixtures(owner) if known == name), None)

    def _run_once(self, function: Any, owner: Any, row: dict[str, Any], params: dict[str, Any], expects_failure: bool) -> None:
        with contextlib.ExitStack() as ending:
            if owner is None:
                self._around(function, ending)
            making = _Making(self, owner, params, ending)
            values = {name: making.value(name) for name in self._wanted(function, owner, row)}
            arguments = {name: value for name, value in values.items() if name in _parameters(function)}
            try:
                result = function(**arguments, **row)
                if inspect.iscoroutine(result):
                    import asyncio

                    asyncio.run(result)
            except Exception:
                if not expects_failure:
                    raise


class _Fixture(NamedTuple):
    function: Callable[..., Any]
    settings: dict[str, Any]
    first: tuple[Any, ...]
    """The instance, for a fixture that is a method."""


class _Making:
    """The fixtures of one run of a test."""

    def __init__(self, functions: TestFunctions, owner: Any, params: dict[str, Any], ending: contextlib.ExitStack) -> None:
        self._functions = functions
        self._owner = owner
        self._params = params
        self._ending = ending
        self._made: dict[str, Any] = {}

    def value(self, name: str) -> Any:
        """Raises UnusableError."""
        if name not in self._made:
            self._made[name] = self._own(name)
        return self._made[name]

    def _own(self, name: str) -> Any:
        made = self._functions._fixture(name, self._owner)
        if made is None:
            return self._built_in(name)
        if made.settings.get("scope", "function") == "function" or name in self._params:
            return self._make(name, made, self._ending)
        # What is made for longer than a test is never torn down: the process ends first.
        return self._functions._once(("fixture", name), lambda: self._make(name, made, contextlib.ExitStack()))

    def _make(self, name: str, made: _Fixture, ending: contextlib.ExitStack) -> Any:
        wanted = list(inspect.signature(made.function).parameters)[len(made.first) :]
        arguments = {
            other: _Request(self, self._params.get(name, _MISSING)) if other == "request" else self.value(other) for other in wanted
        }
        if not inspect.isgeneratorfunction(made.function):
            return made.function(*made.first, **arguments)
        return ending.enter_context(contextlib.contextmanager(made.function)(*made.first, **arguments))

    def _built_in(self, name: str) -> Any:
        if name in _FILES:
            raise UnusableError(f"a test needs the fixture {name!r}: nothing can be written where tests run")
        if name not in _BUILT_IN:
            raise UnusableError(f"a test needs the fixture {name!r}, which nobody defines")
        return self._ending.enter_context(_BUILT_IN[name]())


class _Request:
    """The fixture `request`, as fixtures see it."""

    def __init__(self, making: _Making, param: Any) -> None:
        self._making = making
        if param is not _MISSING:
            self.param = param

    def getfixturevalue(self, name: str) -> Any:
        return self._making.value(name)

    def addfinalizer(self, function: Callable[[], Any]) -> None:
        self._making._ending.callback(function)


class _Captured(NamedTuple):
    out: str
    err: str


class _Capture:
    """The fixture `capsys`."""

    def __enter__(self) -> "_Capture":
        self._before = sys.stdout, sys.stderr
        self._start()
        return self

    def _start(self) -> None:
        sys.stdout, sys.stderr = self._streams = io.StringIO(), io.StringIO()

    def readouterr(self) -> _Captured:
        out, err = (stream.getvalue() for stream in self._streams)
        self._start()
        return _Captured(out, err)

    @contextlib.contextmanager
    def disabled(self) -> Iterator[None]:
        sys.stdout, sys.stderr = self._before
        yield
        sys.stdout, sys.stderr = self._streams

    def __exit__(self, *_: object) -> None:
        sys.stdout, sys.stderr = self._before


class _Log(logging.Handler):
    """The fixture `caplog`."""

    def __enter__(self) -> "_Log":
        self.records: list[logging.LogRecord] = []
        self._level = logging.getLogger().level
        logging.getLogger().addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self)
        logging.getLogger().setLevel(self._level)

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def set_level(self, level: int | str, logger: str | None = None) -> None:
        logging.getLogger(logger).setLevel(level)

    @contextlib.contextmanager
    def at_level(self, level: int | str, logger: str | None = None) -> Iterator[None]:
        before = logging.getLogger(logger).level
        self.set_level(level, logger)
        yield
        self.set_level(before, logger)

    def clear(self) -> None:
        self.records.clear()

    @property
    def messages(self) -> list[str]:
        return [record.getMessage() for record in self.records]

    @property
    def text(self) -> str:
        return "".join(
            f"{record.levelname:8} {record.name}:{record.filename}:{record.lineno} {record.getMessage()}\n" for record in self.records
        )


class _MonkeyPatch:
    """The fixture `monkeypatch`."""

    def __enter__(self) -> "_MonkeyPatch":
        self._undo: list[Callable[[], Any]] = []
        return self

    def __exit__(self, *_: object) -> None:
        self.undo()

    def undo(self) -> None:
        while self._undo:
            self._undo.pop()()

    @contextlib.contextmanager
    def context(self) -> Iterator["_MonkeyPatch"]:
        with _MonkeyPatch() as inner:
            yield inner

    def setattr(self, target: Any, name: Any, value: Any = _MISSING, raising: bool = True) -> None:
        if value is _MISSING:
            (target, name), value = _resolved(target), name
        old = getattr(target, name, _MISSING)
        if old is _MISSING and raising:
            raise AttributeError(f"{target!r} has no attribute {name!r}")
        if isinstance(target, type):
            old = target.__dict__.get(name, _MISSING)
        self._undo.append(lambda: delattr(target, name) if old is _MISSING else setattr(target, name, old))
        setattr(target, name, value)

    def delattr(self, target: Any, name: Any = _MISSING, raising: bool = True) -> None:
        if name is _MISSING:
            target, name = _resolved(target)
        if not hasattr(target, name) and not raising:
            return
        old = getattr(target, name)
        self._undo.append(lambda: setattr(target, name, old))
        delattr(target, name)

    def setitem(self, mapping: Any, key: Any, value: Any) -> None:
        old = mapping.get(key, _MISSING)
        self._undo.append(lambda: mapping.pop(key, None) if old is _MISSING else mapping.__setitem__(key, old))
        mapping[key] = value

    def delitem(self, mapping: Any, key: Any, raising: bool = True) -> None:
        if key in mapping:
            old = mapping[key]
            self._undo.append(lambda: mapping.__setitem__(key, old))
            del mapping[key]
        elif raising:
            raise KeyError(key)

    def setenv(self, name: str, value: str, prepend: str | None = None) -> None:
        import os

        before = os.environ.get(name)
        self.setitem(os.environ, name, f"{value}{prepend}{before}" if prepend and before else str(value))

    def delenv(self, name: str, raising: bool = True) -> None:
        import os

        self.delitem(os.environ, name, raising)


def _resolved(path: str) -> tuple[Any, str]:
    """`package.module.Class.name`: the object in front of the last dot, and the name behind it."""
    owner, _, name = path.rpartition(".")
    parts = owner.split(".")
    for end in range(len(parts), 0, -1):
        with contextlib.suppress(ImportError):
            found = importlib.import_module(".".join(parts[:end]))
            for part in parts[end:]:
                found = getattr(found, part)
            return found, name
    raise ImportError(f"no module {owner!r}")


_BUILT_IN: dict[str, Callable[[], Any]] = {
    "capsys": _Capture,
    "capfd": _Capture,
    "caplog": _Log,
    "monkeypatch": _MonkeyPatch,
    "request": lambda: contextlib.nullcontext(None),
}


class _CaseResult(unittest.TestResult):
    """Keeps what a TestCase raised."""

    def __init__(self) -> None:
        super().__init__()
        self.error: BaseException | None = None
        self.skipped_at: types.TracebackType | None = None

    def addSkip(self, test: Any, reason: str) -> None:  # noqa: N802 - unittest's name
        super().addSkip(test, reason)
        self.skipped_at = sys.exc_info()[2]

    def _keep(self, problem: Any) -> None:
        if self.error is None and problem is not None:
            self.error = problem[1]

    def addError(self, test: Any, err: Any) -> None:  # noqa: N802 - unittest's name
        del test
        self._keep(err)

    def addFailure(self, test: Any, err: Any) -> None:  # noqa: N802 - unittest's name
        del test
        self._keep(err)

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:  # noqa: N802 - unittest's name
        del test, subtest
        self._keep(err)


def _parameters(function: Callable[..., Any]) -> list[str]:
    return [name for name, parameter in inspect.signature(function).parameters.items() if parameter.default is parameter.empty]
