"""Run the solution and the tests in one interpreter, as their authors ran them, without what the tests expect.

The tests come piece by piece and only once the solution is loaded (`code/assert_plan.py` cuts them). What they compare is sent out and
judged outside; only comparisons of objects that are no data happen here, among others that must come out otherwise. Every answer carries
the number of the request that it answers, which was made by chance: nothing can be said ahead of time.
"""

import _thread
import builtins
import json
import math
import os
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from oprime_verifier.sandbox.inside import little_pytest
from oprime_verifier.sandbox.inside.call import failure_of
from oprime_verifier.sandbox.inside.checks import ATOM, CHECK, GUARD, GUARDED, compiled
from oprime_verifier.sandbox.inside.little_pytest import Skipped, UnusableError
from oprime_verifier.sandbox.inside.messages import ChannelClosedError, receive_message, send_message
from oprime_verifier.sandbox.inside.module import FILE, SolutionModule
from oprime_verifier.sandbox.inside.stage import compile_source
from oprime_verifier.sandbox.inside.test_functions import TestFunctions
from oprime_verifier.sandbox.inside.usual import OFFERED
from oprime_verifier.sandbox.inside.values import encode
from oprime_verifier.sandbox.inside.watching import Watch

try:
    import resource
except ImportError:  # WebAssembly, where fuel is counted instead
    resource = None  # type: ignore[assignment]

MOST_WAITING, MOST_WAITING_CHARS = 256, 500_000
"""Checks that are sent together."""
STARTING_S = 0.2
IMPORTED_AS = ("solution", "main", "submission", "answer", "program")
"""Names under which tests import the solution."""


def main(source: str, arguments: dict[str, Any], channel: socket.socket | None) -> None:
    """`arguments`: those of `SolutionModule`; `names` that the solution must define; `entry_point`, the target of `candidate`;
    `classes` whose objects cross by their attributes.
    """
    assert channel is not None  # noqa: S101 - the job's kind needs one
    code = compile_source(source, FILE)
    sys.modules["pytest"] = little_pytest.module()
    solution = SolutionModule(arguments)
    link = _Link(channel)
    watch = Watch(link.tell_look)
    _hide()
    watch.begin()
    try:
        link.next_request()
        error = solution.run(code)
        link.answer({"op": "loaded", "failure": None if error is None else failure_of("load", error)})
        _Tests(solution, link, watch, arguments).serve()
    except ChannelClosedError:
        return


def _hide() -> None:
    """Nothing of ours is found among the modules, where model code could change it."""
    for name in [name for name in sys.modules if name.startswith("oprime")]:
        del sys.modules[name]


class _Held:
    """A channel by its methods, as they were before model code could put others into its class."""

    def __init__(self, channel: Any) -> None:
        self.sendall = channel.sendall
        self.recv = channel.recv
        if hasattr(channel, "fileno"):
            self.fileno = channel.fileno


class _Link:
    """Requests and their answers, in turn."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel: Any = _Held(channel)
        self._number = 0
        self._lock = _thread.allocate_lock()
        self._place = _place_of(self._channel)

    def next_request(self) -> dict[str, Any]:
        """Raises ChannelClosedError."""
        request = receive_message(self._channel)
        self._number = request["n"]
        return request

    def answer(self, message: dict[str, Any]) -> None:
        self._send({**message, "n": self._number})

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """Answer the request under way with a question."""
        with self._lock:
            self.answer(message)
            return self.next_request()

    def tell_look(self, what: str) -> None:
        self._send({"op": "looked", "what": what})

    def _send(self, message: dict[str, Any], leave: Callable[[int], Any] = os._exit) -> None:
        # Something else in the channel's place would swallow it.
        if _place_of(self._channel) != self._place:
            leave(1)
        send_message(self._channel, message)


def _place_of(channel: Any, stat: Callable[[int], os.stat_result] = os.fstat) -> tuple[int, int]:
    number = channel.fileno() if hasattr(channel, "fileno") else None
    if number is None:
        return 0, 0
    try:
        found = stat(number)
    except OSError:
        return -1, -1
    return found.st_dev, found.st_ino


class _Names(dict[str, Any]):
    """Globals of the tests. What they do not define themselves is looked up in the solution each time, as in one module."""

    def __init__(self, solution: SolutionModule, arguments: dict[str, Any]) -> None:
        wanted = frozenset(arguments["names"])
        own = {**OFFERED, **solution.given, "__name__": "tests", "__builtins__": {**vars(builtins), "isinstance": _isinstance}}
        super().__init__({name: value for name, value in own.items() if name not in wanted})
        self._wanted = wanted
        self._solution = solution
        self._target = arguments["entry_point"]

    def __missing__(self, name: str) -> Any:
        if name in self._wanted:
            return self._solution.named(name)
        if name == "candidate" and self._target:
            self[name] = self._solution.entry(self._target)
            return self[name]
        if name in self["__builtins__"] or name not in self._solution.names:
            raise KeyError(name)
        return self._solution.names[name]


class _Tests:
    def __init__(self, solution: SolutionModule, link: _Link, watch: Watch, arguments: dict[str, Any]) -> None:
        self._link = link
        self._watch = watch
        self._classes = frozenset(arguments["classes"])
        self._names = _Names(solution, arguments)
        self._functions = TestFunctions(self._names)
        self._refused: BaseException | None = None
        """What the last check that failed raised."""
        self._waits = False
        self._waiting: list[list[Any]] = []
        """Checks of data that nobody has judged yet: numbers, and tables as JSON."""
        self._waiting_chars = 0
        self._calls = {CHECK: self._check, ATOM: self._holds, GUARD: _guard, GUARDED: _guarded}
        # Again: the solution may have changed the one that it found.
        sys.modules["pytest"] = little_pytest.module()
        for name in IMPORTED_AS:
            sys.modules[name] = solution.module

    def serve(self) -> None:
        while True:
            request = self._link.next_request()
            if request["op"] == "end":
                self._link.answer({"op": "ended"})
            else:
                failure = self._run(request)
                used = {"cpu_s": time.process_time(), "peak_bytes": _peak_bytes()}
                self._link.answer({"op": "ran", "failure": failure, "before": self._noted(), "changed": self._watch.changed(), **used})

    def _run(self, request: dict[str, Any]) -> dict[str, Any] | None:
        self._refused = None
        self._waits = request["waits"]
        _allow_cpu(request["cpu_s"])
        try:
            self._run_unit(request)
        except Skipped as error:
            return {"kind": "runtime" if _passed_solution(error) else "skipped", "error": "Skipped"}
        except UnusableError as error:
            return {"kind": "broken", "error": str(error)}
        except BaseException as error:  # noqa: BLE001 - model code and tests may raise anything
            return self._failure(error)
        return None

    def _run_unit(self, request: dict[str, Any]) -> None:
        how = request["how"]
        if how == "statements":
            exec(compiled(request["source"], self._calls), self._names)  # noqa: S102 - the task's own
        elif how == "check":
            self._names["check"](self._names["candidate"])
        elif how == "function":
            self._functions.run(self._names[request["name"]])
        else:
            self._functions.run_method(self._names[request["owner"]], request["name"])

    def _failure(self, error: BaseException) -> dict[str, Any]:
        found = failure_of("call", error)["error"]
        if error is self._refused:
            return {"kind": "refused", "error": found["type"]}
        if _passed_solution(error):
            return {"kind": "runtime", "error": found["type"]}
        return {"kind": "wrong" if isinstance(error, AssertionError) else "error", "error": found["type"], "message": found["message"]}

    def _check(self, number: int, *values: Any) -> None:
        if not self._holds(number, *values, may_wait=self._waits):
            error = AssertionError()
            self._refused = error
            raise error

    def _holds(self, number: int, *values: Any, may_wait: bool = False) -> bool:
        """`may_wait`: data may be judged later, which fails the unit then."""
        kept: list[Any] = []
        table = encode(values, self._classes, lambda value: _kept(value, kept), exact=True)
        if may_wait and not kept:
            return self._is_noted(number, json.dumps(table))
        reply = self._link.ask({"op": "check", "number": number, "values": table, "is_data": not kept, "before": self._noted()})
        if reply["op"] == "compare":
            reply = self._link.ask({"op": "compared", "results": [self._compared(source, values) for source in reply["functions"]]})
        if reply.get("raises"):
            kind = getattr(builtins, reply["raises"], AssertionError)
            error: BaseException = kind("in an assertion of the tests")
            self._refused = error
            raise error
        return reply["holds"]

    def _is_noted(self, number: int, text: str) -> bool:
        """Whether no check noted so far is known not to hold."""
        self._waiting.append([number, text])
        self._waiting_chars += len(text)
        if len(self._waiting) < MOST_WAITING and self._waiting_chars < MOST_WAITING_CHARS:
            return True
        return self._link.ask({"op": "checks", "before": self._noted()})["holds"]

    def _noted(self) -> list[list[Any]]:
        noted, self._waiting, self._waiting_chars = self._waiting, [], 0
        return noted

    def _compared(self, source: str, values: tuple[Any, ...]) -> Any:
        """True or False, or the class of what comparing them raised."""
        try:
            return bool(eval(source, self._names)(*values))  # noqa: S307 - the task's own
        except Exception as error:  # noqa: BLE001 - model code may raise anything
            return failure_of("call", error)["error"]["type"]


def _isinstance(value: Any, kind: Any, real: Callable[..., bool] = isinstance, derives: Callable[..., bool] = issubclass) -> bool:
    """By its true class: a `__class__` of its own says what it likes. A mock may."""
    own = type(value)
    return real(value, kind) and (own.__module__ == "unittest.mock" or real(kind, _UNIONS) or derives(own, kind))


_UNIONS = type(int | str)


def _kept(value: Any, kept: list[Any]) -> list[Any]:
    kept.append(value)
    return ["kept", len(kept)]


def _guard(thunk: Callable[[], Any]) -> Any:
    try:
        return thunk()
    except StopIteration as error:
        raise RuntimeError("the solution raised StopIteration") from error


def _guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments, **keywords: _guard(lambda: function(*arguments, **keywords))


def _passed_solution(error: BaseException) -> bool:
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == FILE:
            return True
        trace = trace.tb_next
    return False


def _allow_cpu(seconds: float, used: Callable[[], float] = time.process_time) -> None:
    """From here on, as far as the process's own limit goes."""
    if resource is None:
        return
    _, hardest = resource.getrlimit(resource.RLIMIT_CPU)
    # Limits are whole seconds; what was used for starting is not the test's.
    soft = max(math.ceil(used() + seconds - STARTING_S), 1)
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hardest == resource.RLIM_INFINITY else min(soft, hardest), hardest))


def _peak_bytes() -> int:
    return 0 if resource is None else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
