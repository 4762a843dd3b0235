"""Judge a function by the task's own test source, in two processes that never meet: one runs the tests and has stand-ins for what the
solution defines, the other runs the solution. Between them, this process passes calls and results, and decides.
"""

import secrets
import socket
import time
from collections.abc import Iterator
from typing import Any

from oprime.core.verification import TestResult, Verdict
from oprime_verifier.code.extract import defined_names
from oprime_verifier.code.options import Scoring
from oprime_verifier.code.solution import Ended, Solution, failure_of, verdict_of_exception
from oprime_verifier.code.suite import AssertSource, BadTaskError
from oprime_verifier.code.task import OutOfTimeError, Report, Task
from oprime_verifier.sandbox.inside.messages import BadMessageError, ChannelClosedError, receive_message, send_message
from oprime_verifier.sandbox.types import Ending, Job, Limits, Process, RunResult, SandboxFailedError

TESTER_CPU_S = 30.0
TESTER_WALL_S = 600.0
HANDLES_PER_PROCESS = 1_000_000


def judge_asserts(task: Task) -> Iterator[Report]:
    assert task.suite.asserts is not None  # noqa: S101 - the suite's kind says so
    # The seed of the tests' own chance: the same for every sibling, as it is part of the task.
    yield from _Session(task, task.suite.asserts).reports()


class _Session:
    def __init__(self, task: Task, tests: AssertSource) -> None:
        self._task = task
        self._tests = tests
        self._nonce = secrets.token_hex(16)
        self._live: Solution | None = None
        """A process of the solution that the tests hold an object of."""
        self._calls = 0
        self._started = 0
        self._failed: Ended | None = None
        """How a call of the current test ended, when not by an answer; the tests cannot make it good."""
        self._flags: tuple[str, ...] = ()
        self._cost = [0.0, 0.0, 0]
        """Of the current test's calls: CPU and wall seconds, most memory."""

    def reports(self) -> Iterator[Report]:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                tester = self._task.sandbox.start(self._job(), theirs)
            try:
                yield from self._serve(ours, tester)
            finally:
                tester.kill()
                tester.wait()
                self._close_live()
        finally:
            ours.close()

    def _job(self) -> Job:
        tests, suite, options = self._tests, self._task.suite, self._task.options
        arguments = {
            "prompt": suite.preamble,
            "names": list(tests.names),
            "exceptions": list(tests.exceptions),
            "entry_point": self._entry_point(),
            "stop": not options.runs_all,
            "nonce": self._nonce,
        }
        limits = Limits(cpu_s=TESTER_CPU_S, wall_s=TESTER_WALL_S, memory_bytes=self._task.limits.memory_bytes)
        return Job(entry="tester", source=tests.source, arguments=arguments, limits=limits, seed=0, profile=options.profile)

    def _entry_point(self) -> str:
        """Named by the task or the request, else the last function of the response, where the tests call a `candidate`."""
        named = self._task.suite.entry_point or self._task.options.entry_point
        if named or "candidate" not in self._tests.source:
            return named
        defined = [name for name in defined_names(self._task.program) if name != "Solution"]
        return defined[-1] if defined else ""

    def _serve(self, channel: socket.socket, tester: Process) -> Iterator[Report]:
        options, seen = self._task.options, 0
        wanted = options.first_k if options.pays is Scoring.FIRST_K else self._tests.tests + 1
        while seen < wanted:
            message = self._next(channel, tester)
            if message is None:
                yield self._tester_gave_up()
                return
            if message["op"] == "done":
                self._check_token(message)
                break
            if message["op"] == "test":
                seen += bool(message["is_test"])
                yield self._report(message)
            elif (reply := self._answer(message)) is not None:
                send_message(channel, reply)
        if not self._calls:
            raise BadTaskError("the tests never call the solution: they would pay for anything")

    def _check_token(self, message: dict[str, Any]) -> None:
        if message.get("nonce") != self._nonce:
            raise SandboxFailedError("the tests' process ended without its token")

    def _next(self, channel: socket.socket, tester: Process) -> dict[str, Any] | None:
        """The next message of the tests; None when their process was ended by a limit. Raises OutOfTimeError, BadTaskError."""
        channel.settimeout(max(min(self._task.ends_at - time.monotonic(), TESTER_CPU_S * 3), 0.001))
        try:
            message = receive_message(channel)
        except TimeoutError as error:
            self._task.check_deadline()
            raise OutOfTimeError from error
        except (ChannelClosedError, BadMessageError, OSError) as error:
            return self._tester_ended(tester.wait(), error)
        if message["op"] == "broken":
            raise BadTaskError(f"the task's tests do not run: {message['error']}")
        return message

    def _tester_ended(self, run: RunResult, error: Exception) -> None:
        if run.ending is Ending.COMPILE:
            raise BadTaskError("the task's tests do not compile")
        if run.ending in (Ending.TIME, Ending.MEMORY) or self._calls:
            return
        raise SandboxFailedError(f"the tests' process ended ({run.ending}, exit code {run.exit_code})") from error

    def _tester_gave_up(self) -> Report:
        reason = "the tests ran out of time or memory on what the program returned"
        return Report(result=TestResult(index=0, verdict=Verdict.INCORRECT), reason=reason, flags=self._flags)

    def _answer(self, message: dict[str, Any]) -> dict[str, Any] | None:
        if message["op"] == "release":
            self._release(message["handle"])
            return None
        self._task.check_deadline()
        self._calls += 1
        reply = self._asked(message)
        if isinstance(reply, Ended):
            self._failed, self._flags = reply, (*self._flags, *reply.flags)
            return {"ended": reply.verdict.value}
        if reply.get("claims_everything"):
            self._flags = (*self._flags, "hack_suspected")
        missing = reply.get("phase") == "find" and "handle" not in message.get("target", {})
        if missing or reply.get("phase") in ("load", "encode") or "MemoryError" in str(reply.get("error")):
            # No test may take this for an exception that it waits for.
            verdict, reason = failure_of(reply)
            self._failed = Ended(verdict, reason)
        return _cleaned(reply)

    def _asked(self, message: dict[str, Any]) -> dict[str, Any] | Ended:
        if self._live is not None:
            reply = self._ask(self._live, message)
            if isinstance(reply, Ended) or not (self._live.handles or "callback" in reply):
                self._close_live()
            return reply
        solution = self._start()
        reply = self._ask(solution, message)
        if isinstance(reply, Ended) and reply.starved:
            self._pay(solution)
            solution = self._start()
            reply = self._ask(solution, message)
        if isinstance(reply, Ended) or not (solution.handles or "callback" in reply):
            self._pay(solution)
        else:
            self._live = solution
        return reply

    def _start(self) -> Solution:
        self._started += 1
        # Numbers of their own for every process: an object of one that ended is not taken for another's.
        return Solution.start(self._task, first_handle=self._started * HANDLES_PER_PROCESS)

    def _ask(self, solution: Solution, message: dict[str, Any]) -> dict[str, Any] | Ended:
        if message["op"] == "called_back":
            return solution.ask({name: part for name, part in message.items() if name != "op"})
        return solution.ask(message)

    def _release(self, handle: int) -> None:
        if self._live is None:
            return
        self._live.handles.discard(handle)
        if not self._live.handles:
            self._close_live()

    def _close_live(self) -> None:
        if self._live is not None:
            self._pay(self._live)
            self._live = None

    def _pay(self, solution: Solution) -> None:
        run = solution.close()
        self._cost = [self._cost[0] + run.cpu_s, self._cost[1] + run.wall_s, max(self._cost[2], run.peak_bytes)]

    def _report(self, message: dict[str, Any]) -> Report:
        verdict, reason = self._judged(message["failure"])
        cpu_s, wall_s, peak = self._cost
        result = TestResult(index=message["index"], verdict=verdict, cpu_s=cpu_s, wall_s=wall_s, peak_bytes=int(peak))
        report = Report(result=result, reason=reason, flags=self._flags)
        self._failed, self._flags, self._cost = None, (), [0.0, 0.0, 0]
        return report

    def _judged(self, failure: dict[str, Any] | None) -> tuple[Verdict, str]:
        if self._failed is not None:
            return self._failed.verdict, self._failed.reason
        if failure is None:
            return Verdict.CORRECT, ""
        if failure["kind"] == "error" and not self._calls:
            raise BadTaskError(f"the task's tests fail before they call the solution: {failure['error']}")
        if failure["kind"] == "runtime":
            name = str(failure["error"]).partition(":")[0]
            return verdict_of_exception(name) or (Verdict.RUNTIME, f"the program raised {name}")
        return Verdict.INCORRECT, "an assertion of the tests does not hold"


def _cleaned(reply: dict[str, Any]) -> dict[str, Any]:
    """What the tests may see of a reply of the solution."""
    error = reply.get("error")
    if error is not None:
        known = error if isinstance(error, dict) else {}
        bases = known.get("bases")
        return {
            "error": {
                "type": str(known.get("type")),
                "message": str(known.get("message")),
                "bases": [str(base) for base in bases] if isinstance(bases, list) else [],
            }
        }
    return {name: reply[name] for name in ("value", "mutated", "callback", "args") if name in reply}
