"""Judge a function by the task's own test source: one process with solution and tests, one with what the tests expect.

Between them, this process passes questions and answers, and decides.
"""

import secrets
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

from oprime.core.verification import TestResult, Verdict
from oprime_verifier.code.assert_plan import TestPlan, plan_tests
from oprime_verifier.code.extract import defined_names
from oprime_verifier.code.options import Scoring
from oprime_verifier.code.solution import SLACK_S, Ended, Solution, failure_of, job_of, verdict_of_exception
from oprime_verifier.code.suite import AssertSource, BadTaskError
from oprime_verifier.code.task import OutOfTimeError, Report, Task, UndecidedError
from oprime_verifier.sandbox.inside.messages import BadMessageError, ChannelClosedError, receive_message, send_message
from oprime_verifier.sandbox.types import Ending, Job, Limits, Process, RunResult, SandboxFailedError

TESTER_CPU_S = 30.0
TESTER_WALL_S = 600.0
_UNDEFINED = ("NameError", "ImportError")


def judge_asserts(task: Task) -> Iterator[Report]:
    tests = task.suite.asserts
    assert tests is not None  # noqa: S101 - the suite's kind says so
    plan = plan_tests(tests.source, task.suite.preamble, frozenset(tests.names))
    if not plan.calls_solution:
        raise BadTaskError("the tests never call the solution: they would pay for anything")
    yield from _Session(task, tests, plan).reports()


class _Session:
    def __init__(self, task: Task, tests: AssertSource, plan: TestPlan) -> None:
        self._task = task
        self._plan = plan
        self._tests = tests
        self._token = secrets.token_hex(16)
        self._subject: Solution | None = None
        self._retried = False
        self._failed: Ended | None = None
        """How the subject's process ended in the current test, when not by an answer."""
        self._changed = ""
        """What the solution changed of what tests use."""
        self._looks: set[str] = set()
        self._begun_at = time.monotonic()
        self._used = (0.0, 0.0)
        """CPU seconds by its own account at the begin of the current test, and now."""
        self._peak_bytes = 0

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
                self._close_subject()
        finally:
            ours.close()

    def _job(self) -> Job:
        plan, suite, options = self._plan, self._task.suite, self._task.options
        arguments = {
            "prompt": suite.preamble,
            "classes": list(plan.classes),
            "units": [asdict(unit) for unit in plan.units],
            "checks": [asdict(check) for check in plan.checks],
            "cpu_s": self._task.limits.cpu_s,
            "stop": not options.runs_all,
            "skips": plan.skips,
            "catches": plan.catches,
            "token": self._token,
        }
        # The seed of the tests' own chance: the same for every sibling, as it is part of the task.
        limits = Limits(cpu_s=TESTER_CPU_S, wall_s=TESTER_WALL_S, memory_bytes=self._task.limits.memory_bytes)
        return Job(entry="tester", source=plan.outside, arguments=arguments, limits=limits, seed=0, profile=options.profile)

    def _start_subject(self) -> Solution:
        self._close_subject()
        self._used = (0.0, 0.0)
        wanted = {"names": list(self._tests.names), "classes": list(self._plan.classes), "entry_point": self._entry_point()}
        job, several = job_of(self._task, "subject", self._tests.tests, **wanted), self._tests.tests > 1
        begin = partial(self._task.sandbox.start, job)
        self._subject = Solution.start(self._task, begin, 0.0 if several else SLACK_S)
        return self._subject

    def _entry_point(self) -> dict[str, Any] | None:
        """Named by the task or the request, else the last function of the response, where the tests call a `candidate`."""
        named = self._task.suite.entry_point or self._task.options.entry_point
        if not named and self._tests.calls_candidate:
            defined = [name for name in defined_names(self._task.program) if name != "Solution"]
            named = defined[-1] if defined else ""
        owner, _, method = named.rpartition(".")
        if owner:
            return {"name": owner.removesuffix("()"), "new": owner.endswith("()"), "path": [method]}
        return {"name": method} if method else None

    def _serve(self, channel: socket.socket, tester: Process) -> Iterator[Report]:
        options, seen = self._task.options, 0
        wanted = options.first_k if options.pays is Scoring.FIRST_K else self._tests.tests + 1
        while seen < wanted:
            message = self._next(channel, tester)
            if message is None:
                reason = "the tests ran out of time or memory on what the program returned"
                yield Report(result=TestResult(index=0, verdict=Verdict.INCORRECT), reason=reason)
                return
            if message["op"] == "done":
                if message.get("token") != self._token:
                    raise SandboxFailedError("the tests' process ended without its token")
                return
            if message["op"] == "test":
                seen += bool(message["is_test"])
                yield self._report(message)
            else:
                send_message(channel, self._answer(message["message"]))

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
        if run.ending in (Ending.TIME, Ending.MEMORY) and self._subject is not None:
            return
        raise SandboxFailedError(f"the tests' process ended ({run.ending}, exit code {run.exit_code})") from error

    def _answer(self, question: dict[str, Any]) -> dict[str, Any]:
        self._task.check_deadline()
        subject = self._start_subject() if question["op"] == "load" or self._subject is None else self._subject
        reply = subject.ask(question)
        self._looks |= subject.looks
        if isinstance(reply, Ended):
            self._subject = None
            self._failed = reply
            again, self._retried = reply.starved and not self._retried, True
            return {"ended": True, "again": again}
        self._note(reply)
        return {"answer": reply}

    def _note(self, reply: dict[str, Any]) -> None:
        """What the supervisor has to know of an answer."""
        if reply.get("op") == "loaded" and isinstance(reply.get("failure"), dict):
            self._failed = Ended(*failure_of(reply["failure"]))
        if reply.get("op") == "ran":
            self._changed = self._changed or str(reply.get("changed") or "")[:80]
            self._used = (self._used[0], _number(reply.get("cpu_s")))
            self._peak_bytes = int(_number(reply.get("peak_bytes")))

    def _close_subject(self) -> None:
        if self._subject is not None:
            self._subject.close()
            self._subject = None

    def _report(self, message: dict[str, Any]) -> Report:
        verdict, reason, flags = self._judged(message)
        if verdict is Verdict.CORRECT:
            self._refuse_tricks(message["is_inside"])
        now, (before, after) = time.monotonic(), self._used
        if self._failed is not None:
            after = self._task.last_cpu_s
        result = TestResult(
            index=message["index"],
            verdict=verdict,
            cpu_s=max(after - before, 0.0),
            wall_s=now - self._begun_at,
            peak_bytes=self._peak_bytes,
        )
        self._failed, self._used, self._begun_at = None, (after, after), now
        return Report(result=result, reason=reason, flags=(*flags, *(("hack_suspected",) if message["agrees"] else ())))

    def _refuse_tricks(self, is_inside: bool) -> None:
        """Raises UndecidedError where what passed may owe it to a solution that looked at, or changed, what decides."""
        if self._looks and is_inside:
            raise UndecidedError(f"the program looked where tests keep what they expect ({', '.join(sorted(self._looks))})")
        if self._changed and not self._plan.changes:
            raise UndecidedError(f"the program changed what the tests use ({self._changed})")

    def _judged(self, message: dict[str, Any]) -> tuple[Verdict, str, tuple[str, ...]]:
        failure = message["failure"]
        if failure is None:
            return Verdict.CORRECT, "", ()
        if failure["kind"] == "ended" and self._failed is not None:
            return self._failed.verdict, self._failed.reason, self._failed.flags
        if failure["kind"] in ("ended", "forged"):
            return Verdict.RUNTIME, "the program answered for the tests", ("hack_suspected",)
        verdict, reason = _failed(failure["kind"], str(failure.get("error"))[:80], message)
        return verdict, reason, ()


def _failed(kind: str, name: str, message: dict[str, Any]) -> tuple[Verdict, str]:
    """Of a test that raised `name`. Raises BadTaskError where the solution cannot be the reason."""
    if kind == "runtime":
        return verdict_of_exception(name) or (Verdict.RUNTIME, f"the program raised {name}")
    where = f"line {message['line']} of the tests" + (f" (in {message['name']})" if message["name"] else "")
    if kind in ("refused", "wrong") and name == "AssertionError":
        return Verdict.INCORRECT, f"the assertion in {where} does not hold"
    if kind == "error" and (message["is_early"] or name == "ModuleNotFoundError"):
        raise BadTaskError(f"the task's tests fail before they call the solution: {name}")
    if kind == "error" and name in _UNDEFINED:
        return Verdict.RUNTIME, f"the response does not define what is called ({name}, {where})"
    return Verdict.INCORRECT, f"{where} raises {name} with what the program returned"


def _number(value: Any) -> float:
    """What a solution says of itself, which may be anything."""
    return float(value) if isinstance(value, int | float) and 0 <= value < 1e15 else 0.0
