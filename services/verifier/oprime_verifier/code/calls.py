"""Judge a function by its results: a process per call, which sees that call's arguments alone; results are compared here."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from oprime.core.verification import TestResult, Verdict
from oprime_verifier.code.options import Scoring
from oprime_verifier.code.solution import SLACK_S, Ended, Solution, failure_of, job_of
from oprime_verifier.code.suite import BadTaskError, CallCase
from oprime_verifier.code.task import Report, Task, result_of
from oprime_verifier.code.values import ValueRule, matches
from oprime_verifier.sandbox.inside.values import Decoder, UndecodableError, encode


def judge_calls(task: Task) -> Iterator[Report]:
    """Shortest calls first."""
    numbered = list(enumerate(task.suite.calls))
    if task.options.pays is Scoring.FIRST_K:
        numbered = numbered[: task.options.first_k]
    with contextlib.closing(_Caller(task, len(numbered))) as caller, contextlib.closing(_Expected(task, len(numbered))) as expected:
        for index, case in sorted(numbered, key=lambda pair: pair[1].size):
            task.check_deadline()
            yield _judge(caller, index, case, expected)


class _Caller:
    """Calls the function of `task.program`, each time in a fresh process."""

    def __init__(self, task: Task, runs: int) -> None:
        self._task = task
        self._repeated = task.sandbox.repeat(job_of(task, "call"), runs)

    def close(self) -> None:
        self._repeated.close()

    def call(self, index: int, case: CallCase) -> tuple[dict[str, Any] | Ended, TestResult]:
        reply, result = self.call_once(index, case)
        return self.call_once(index, case) if isinstance(reply, Ended) and reply.starved else (reply, result)

    def call_once(self, index: int, case: CallCase) -> tuple[dict[str, Any] | Ended, TestResult]:
        task = self._task
        solution = Solution.start(task, lambda channel: self._repeated.start(channel=channel, wall_s=task.limits.wall_s), SLACK_S)
        try:
            reply = solution.ask({"op": "call", "target": target_of(task), "args": encode([list(case.arguments), case.keywords])})
        finally:
            run = solution.close()
        return reply, result_of(index, Verdict.CORRECT, run)


def _rule(task: Task) -> ValueRule:
    options = task.options
    return ValueRule(max(options.abs_tolerance, task.suite.abs_tolerance or 0.0), options.rel_tolerance, options.strict_types)


class _Expected:
    """What is right. Where expected values may be wrapped in a list, they all are, or none is: the first results that fit one way only
    decide for the rest.
    """

    def __init__(self, task: Task, runs: int) -> None:
        self._rule = _rule(task)
        self._reference = _Caller(replace(task, program=task.suite.reference), runs) if task.suite.reference else None
        self._ways = {"plain", "wrapped"} if task.suite.may_be_wrapped else {"plain"}

    def close(self) -> None:
        if self._reference is not None:
            self._reference.close()

    def accepts(self, table: Any, case: CallCase) -> bool:
        if self._reference is not None:
            return _same_as_reference(self._reference, table, case, self._rule)
        fitting = {way for way in self._ways if matches(table, case.expected[0] if way == "wrapped" else case.expected, self._rule)}
        self._ways = fitting or self._ways
        return bool(fitting)


def _judge(caller: _Caller, index: int, case: CallCase, expected: _Expected) -> Report:
    reply, result = caller.call(index, case)
    if isinstance(reply, Ended):
        return _report(result, reply.verdict, reply.reason, reply.flags)
    flags = ("hack_suspected",) if reply.get("claims_everything") else ()
    if "error" in reply:
        verdict, reason = failure_of(reply)
        return _report(result, verdict, reason, ("hack_suspected", *flags) if verdict is Verdict.VIOLATION else flags)
    if _is_no_data(reply.get("value")):
        return _report(result, Verdict.RUNTIME, "the result is an object of the program's own class, no plain data", flags)
    if not expected.accepts(reply.get("value"), case):
        return _report(result, Verdict.INCORRECT, "the function returned a wrong value", flags)
    return _report(result, Verdict.CORRECT, "", flags)


def _report(result: TestResult, verdict: Verdict, reason: str, flags: tuple[str, ...] = ()) -> Report:
    return Report(result=replace(result, verdict=verdict), reason=reason, flags=flags)


def _is_no_data(table: Any) -> bool:
    try:
        (index,) = table["roots"][0]
        return table["nodes"][index][0] == "handle"
    except (LookupError, TypeError, ValueError):
        return False


def target_of(task: Task) -> dict[str, Any]:
    entry_point = task.suite.entry_point or task.options.entry_point
    owner, _, method = entry_point.rpartition(".")
    if not owner:
        return {"function": method}
    return {"name": owner.removesuffix("()"), "new": owner.endswith("()"), "path": [method]}


def _same_as_reference(reference: _Caller, table: Any, case: CallCase, rule: ValueRule) -> bool:
    """Compare with what the task's own solution returns, which runs in the sandbox as well."""
    wanted, _ = reference.call_once(0, case)
    if isinstance(wanted, Ended) or "error" in wanted:
        raise BadTaskError("the task's canonical solution fails on one of its inputs")
    if wanted.get("value") == table:
        return True
    try:
        return matches(table, _jsonable(Decoder(wanted["value"]).roots()[0]), rule)
    except UndecodableError as error:
        raise BadTaskError(f"the task's canonical solution returns no plain data ({error})") from error


def _jsonable(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_jsonable(part) for part in value]
    if isinstance(value, dict):
        return {key if isinstance(key, str) else repr(key): _jsonable(part) for key, part in value.items()}
    return value
