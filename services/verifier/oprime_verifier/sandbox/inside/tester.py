"""The tests' side of an interpreter in which solution and tests run (`subject.py`): what is expected, and whether it came.

Nothing of a response runs here; its values come as data. Success is told to the supervisor with a token that only this process has.
"""

import contextlib
import json
import os
import random
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from oprime_verifier.sandbox.inside import checker, little_pytest
from oprime_verifier.sandbox.inside.check_variants import comparison
from oprime_verifier.sandbox.inside.messages import receive_message, send_message
from oprime_verifier.sandbox.inside.stage import compile_source
from oprime_verifier.sandbox.inside.usual import OFFERED
from oprime_verifier.sandbox.inside.values import Decoder, UndecodableError

ENTRIES_BESIDE = (checker,)
"""Entry modules that are loaded with this one."""
_NUMBER_BYTES = 6
_KINDS = ("refused", "wrong", "error", "runtime", "skipped", "broken")
"""How a unit fails, in the subject's words."""


class _EndedError(Exception):
    """The subject's process ended instead of answering."""

    def __init__(self, again: bool = False, is_final: bool = False) -> None:
        self.again = again
        """Whether the machine and not the program may be to blame, so that the unit deserves another try."""
        self.is_final = is_final
        """Whether a fresh process would end likewise."""


class _ForgedError(Exception):
    """An answer that the subject's own code would not give."""


class _BrokenError(Exception):
    """The task's own source does not run."""


def main(source: str, arguments: dict[str, Any], channel: socket.socket | None) -> None:
    """`source`: what of the tests is defined here too. `arguments`: `prompt` (trusted source with helpers), `classes`, `units` and `checks`
    (as `code/assert_plan.py` has them), `cpu_s` of one test, `stop` (at the first failure), `skips` (whether the tests skip some),
    `catches` (whether they may go on after a failed assert), `token`.
    """
    assert channel is not None  # noqa: S101 - the job's kind needs one
    code = compile_source(source, "tests.py")
    try:
        judge = _Judge(_Outside(code, arguments), arguments, channel)
        judge.run_all()
    except _BrokenError as error:
        send_message(channel, {"op": "broken", "error": str(error)[:500]})
        return
    send_message(channel, {"op": "done", "token": arguments["token"]})


class _Outside:
    """The checks, with the names that they use."""

    def __init__(self, code: Any, arguments: dict[str, Any]) -> None:
        self._names: dict[str, Any] = {**OFFERED, "__name__": "tests"}
        self.checks: list[dict[str, Any]] = arguments["checks"]
        self._functions: dict[int, Callable[..., Any]] = {}
        sys.modules["pytest"] = little_pytest.module()
        with contextlib.suppress(Exception):  # a prompt that does not run offers no helpers
            exec(compile(arguments["prompt"], "prompt.py", "exec", dont_inherit=True), self._names)  # noqa: S102 - the task's own
        try:
            exec(code, self._names)  # noqa: S102 - the task's own
        except Exception as error:
            raise _BrokenError(f"{type(error).__name__}: {error}") from error
        self._classes = {name: self._names[name] for name in arguments["classes"] if isinstance(self._names.get(name), type)}

    def holds(self, number: int, table: Any) -> dict[str, Any]:
        """The verdict on data."""
        function = self._functions.get(number)
        if function is None:
            function = self._functions[number] = eval(self.checks[number]["upper"], self._names)  # noqa: S307 - the task's own
        try:
            values = Decoder(table, self._classes).roots()
        except UndecodableError as error:
            raise _ForgedError from error
        try:
            return {"holds": bool(function(*values))}
        except Exception as error:  # noqa: BLE001 - as the tests' own interpreter would have raised it
            return {"holds": False, "raises": type(error).__name__}

    def data_of(self, table: Any) -> dict[int, Any]:
        """Those that are data, by their places."""
        found: dict[int, Any] = {}
        for place, root in enumerate(table["roots"]):
            with contextlib.suppress(UndecodableError):
                found[place] = Decoder({"nodes": table["nodes"], "roots": [root]}, self._classes).roots()[0]
        return found


class _Judge:
    def __init__(self, outside: _Outside, arguments: dict[str, Any], channel: socket.socket) -> None:
        self._outside = outside
        self._arguments = arguments
        self._channel = channel
        self._chance = random.SystemRandom()
        self._units: list[dict[str, Any]] = arguments["units"]
        self._seen: list[int] = []
        """Checks of the unit under way."""
        self._begun = False
        self._failing: int | None = None
        """The last assert of it that does not hold."""
        self._refused = ""
        """What that raises, where it ends the unit whatever the subject says."""
        self._inside = False
        """Whether a check of it was decided in the subject's interpreter, or by values that stand there."""
        self._agrees = False
        """Whether an object claimed to agree with anything."""

    def run_all(self) -> None:
        index = 0
        for place, unit in enumerate(self._units):
            failure = self._outcome(place)
            if failure is None and unit is self._units[-1] and not self._is_silent():
                failure = {"kind": "forged"}
            is_test = unit["is_test"]
            if is_test or failure is not None:
                self._tell_test(place, index, failure)
            index += is_test
            if failure is not None and (self._arguments["stop"] or not is_test or failure.get("is_final")):
                return

    def _outcome(self, place: int) -> dict[str, Any] | None:
        """How a unit failed; None when it passed."""
        try:
            return self._once_more(place)
        except _EndedError as error:
            self._begun = False
            return {"kind": "ended", "is_final": error.is_final}
        except _ForgedError:
            self._begun = False
            return {"kind": "forged"}

    def _once_more(self, place: int) -> dict[str, Any] | None:
        try:
            if not self._begun:
                # A fresh interpreter knows what the statements before have defined; tests that passed are not run again.
                self._begin(unit for unit in range(place) if not self._units[unit]["is_test"])
            return self._run(place)
        except _EndedError as error:
            if not error.again:
                raise
            self._begin(range(place))
            return self._run(place)

    def _begin(self, before: Iterable[int]) -> None:
        """Raises _EndedError, _ForgedError."""
        if self._ask({"op": "load"}, "loaded").get("failure"):
            # The supervisor has seen it.
            raise _EndedError(is_final=True)
        self._begun = True
        for place in before:
            self._run(place)

    def _is_silent(self) -> bool:
        """Whether nothing more comes than the answer to the last question."""
        try:
            self._ask({"op": "end"}, "ended")
        except (_EndedError, _ForgedError):
            return False
        return True

    def _tell_test(self, place: int, index: int, failure: dict[str, Any] | None) -> None:
        unit = self._units[place]
        line = unit["line"] if self._failing is None else self._outside.checks[self._failing]["line"]
        self._tell(
            {
                "op": "test", "is_test": unit["is_test"], "index": index, "failure": failure, "line": line, "name": unit["name"],
                "is_early": not any(earlier["calls_solution"] for earlier in self._units[: place + 1]),
                "is_inside": self._inside, "agrees": self._agrees,
            }
        )  # fmt: skip

    def _tell(self, message: dict[str, Any]) -> None:
        send_message(self._channel, message)

    def _run(self, place: int) -> dict[str, Any] | None:
        """How a unit failed. Raises _EndedError, _ForgedError, _BrokenError."""
        unit = self._units[place]
        self._seen, self._failing, self._refused, self._inside, self._agrees = [], None, "", False, False
        what = {name: unit[name] for name in ("how", "source", "name", "owner")}
        # Where nothing catches a failed assert, nothing depends on when it is found.
        how = {"cpu_s": self._arguments["cpu_s"], "waits": not self._arguments["catches"]}
        reply = self._ask({"op": "run", **how, **what}, "ran", "check", "checks")
        while self._is_question(reply):
            reply = self._ask(self._verdict(reply), "ran", "check", "checks")
        # What passed without a word to this side, passed by the word of the subject's interpreter.
        self._inside |= not self._seen
        if self._refused:
            # Whatever it says: nothing in these tests goes on after an assert that does not hold.
            return {"kind": "refused", "error": self._refused}
        failure = reply.get("failure")
        if type(failure) is dict:
            return self._real_failure(failure)
        if not _are_in_order(unit["must"], self._seen):
            raise _ForgedError
        return None

    def _is_question(self, reply: dict[str, Any]) -> bool:
        """Judges what was noted before; says whether the subject waits for a verdict. Raises _ForgedError."""
        try:
            for number, text in reply.get("before", ()):
                self._checked({"number": number, "values": json.loads(text), "is_data": True}, waited=True)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise _ForgedError from error
        return reply["op"] != "ran"

    def _real_failure(self, failure: dict[str, Any]) -> dict[str, Any] | None:
        if failure.get("kind") not in _KINDS:
            raise _ForgedError
        if failure["kind"] == "broken":
            raise _BrokenError(str(failure.get("error")))
        if failure["kind"] != "skipped":
            return failure
        return None if self._arguments["skips"] else {**failure, "kind": "runtime"}

    def _verdict(self, message: dict[str, Any]) -> dict[str, Any]:
        """Raises _EndedError, _ForgedError."""
        if message["op"] == "checks":
            return {"op": "verdict", "holds": not self._refused}
        try:
            return {"op": "verdict", **self._checked(message)}
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise _ForgedError from error

    def _checked(self, message: dict[str, Any], waited: bool = False) -> dict[str, Any]:
        number = message["number"]
        if type(number) is not int or not 0 <= number < len(self._outside.checks):
            raise _ForgedError
        self._seen.append(number)
        check = self._outside.checks[number]
        self._inside |= check["is_inside"]
        table = message["values"]
        verdict = self._outside.holds(number, table) if message["is_data"] else self._compared(check, self._outside.data_of(table))
        if not verdict["holds"] and check["asserts"] and not self._refused:
            self._failing = number
            if self._arguments["catches"] or ("raises" in verdict and not waited):
                self._inside = True
            else:
                self._refused = verdict.get("raises", "AssertionError")
        return verdict

    def _compared(self, check: dict[str, Any], data: dict[int, Any]) -> dict[str, Any]:
        """The verdict on objects that are no data: the subject compares them, and cannot tell which of the comparisons counts."""
        self._inside = True
        compared = comparison(check["upper"], data)
        functions = [check["upper"], *compared.others]
        order = list(range(len(functions)))
        self._chance.shuffle(order)
        results = self._ask({"op": "compare", "functions": [functions[place] for place in order]}, "compared")["results"]
        if type(results) is not list or len(results) != len(order):
            raise _ForgedError
        by_place = dict(zip(order, results, strict=True))
        right, others = by_place.pop(0), [result is True for result in by_place.values()]
        if isinstance(right, str):
            return {"holds": False, "raises": right}
        agrees_with_anything = any(others) if compared.is_equality else bool(others) and all(others)
        self._agrees |= agrees_with_anything
        return {"holds": right is True and not agrees_with_anything}

    def _ask(self, message: dict[str, Any], *expected: str) -> dict[str, Any]:
        """The subject's answer, by way of the supervisor. Raises _EndedError, _ForgedError."""
        number = int.from_bytes(os.urandom(_NUMBER_BYTES), "big")
        self._tell({"op": "ask", "message": {**message, "n": number}})
        reply = receive_message(self._channel)
        if "ended" in reply:
            raise _EndedError(again=bool(reply.get("again")))
        answer = reply["answer"]
        if answer.get("n") != number or answer.get("op") not in expected:
            raise _ForgedError
        return answer


def _are_in_order(wanted: list[int], seen: list[int]) -> bool:
    left: Iterator[int] = iter(seen)
    return all(number in left for number in wanted)
