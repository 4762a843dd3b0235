"""Runs the conformance suite against a target and reports."""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from oprime.core.verification import Verdict
from oprime.runtime.errors import OprimeError
from oprime_verifier.conformance.attack_checks import attack_failures
from oprime_verifier.conformance.cases import NOT_CORRECT, code_cases, math_cases
from oprime_verifier.conformance.checks import (
    CONTRACT,
    CheckFailedError,
    Session,
    SkippedError,
    describes_itself,
    refuses_unknown_kinds,
)
from oprime_verifier.conformance.targets import Answer, Target

ATTACKS_CHECK = "attacks get their verdicts"
BATCH = 16
MOST_MISSED = 0.05
"""Part of the right answers that a math verifier may fail to recognise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """How one check ended."""

    kind: str
    """Empty for a check of the target as a whole."""
    name: str
    status: str
    """`passed`, `failed` or `skipped`."""
    detail: str = ""
    failures: tuple[str, ...] = ()
    """Cases that were not answered as they must."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How a target did."""

    target: str
    results: tuple[CheckResult, ...]
    categories: dict[str, dict[str, int]] = field(default_factory=dict[str, dict[str, int]])
    """Math cases by category: `right` answers of the verifier, out of `all`."""

    @property
    def passed(self) -> bool:
        return any(result.status == "passed" for result in self.results) and not any(result.status == "failed" for result in self.results)

    def to_json(self) -> str:
        return json.dumps({**asdict(self), "passed": self.passed}, indent=2, ensure_ascii=False)


async def run(target: Target, *, kind: str = "", told: Callable[[CheckResult], None] = lambda _: None) -> Report:
    """All checks that apply to the kinds the target describes, or to `kind` alone. Raises OprimeError when it cannot be reached."""
    session = Session(target=target, described=await target.describe())
    results: list[CheckResult] = []
    categories: dict[str, dict[str, int]] = {}

    async def check(of: str, name: str, work: Callable[[], Awaitable[str]]) -> None:
        results.append(await _result(of, name, work))
        told(results[-1])

    await check("", "it describes its verifiers", lambda: describes_itself(session))
    await check("", "an unknown kind is refused", lambda: refuses_unknown_kinds(session))
    for name in _kinds(session, kind):
        for title, work in CONTRACT:
            await check(name, title, lambda work=work, name=name: work(session, name))
        for result in await _cases_of(session, name, categories):
            results.append(result)
            told(result)
    await check("", "a score is absent exactly where it must be", lambda: _shapes(session))
    return Report(target=target.name, results=tuple(results), categories=categories)


def _kinds(session: Session, kind: str) -> list[str]:
    usable = [known.name for known in session.described if not known.problem]
    if kind and kind not in usable:
        raise CheckFailedError(f"--kind {kind}: the target offers {', '.join(usable) or 'nothing'}")
    return [kind] if kind else usable


async def _result(kind: str, name: str, work: Callable[[], Awaitable[str]]) -> CheckResult:
    try:
        return CheckResult(kind=kind, name=name, status="passed", detail=await work())
    except SkippedError as error:
        return CheckResult(kind=kind, name=name, status="skipped", detail=str(error))
    except OprimeError as error:
        return CheckResult(kind=kind, name=name, status="failed", detail=str(error))


async def _shapes(session: Session) -> str:
    if session.wrong_shapes:
        raise CheckFailedError(f"{len(session.wrong_shapes)} answers, the first: {session.wrong_shapes[0]}")
    return "all answers of this run"


async def _cases_of(session: Session, kind: str, categories: dict[str, dict[str, int]]) -> list[CheckResult]:
    if kind not in ("math", "code"):
        return []
    try:
        return await (_math(session, kind, categories) if kind == "math" else _code(session, kind))
    except OprimeError as error:
        return [CheckResult(kind=kind, name="cases", status="failed", detail=str(error))]


async def _math(session: Session, kind: str, categories: dict[str, dict[str, int]]) -> list[CheckResult]:
    cases = math_cases()
    answers = await _in_batches(session, [case.request(kind) for case in cases])
    accepted = [answer.score == 1 for answer in answers]
    right, every = Counter[str](), Counter[str]()
    paid, missed, policies = list[str](), list[str](), list[str]()
    for case, yes, answer in zip(cases, accepted, answers, strict=True):
        every[case.category] += 1
        right[case.category] += yes == case.expected
        if yes != case.expected:
            line = f"{case.id}: {answer.verdict} for {case.response[-80:]!r} against {case.gold[:60]!r} {case.note}".rstrip()
            (policies if case.is_policy else paid if yes else missed).append(line)
    categories |= {name: {"right": right[name], "all": every[name]} for name in every}
    wanted = sum(case.expected and not case.is_policy for case in cases)
    rejected = sum(not case.expected and not case.is_policy for case in cases)
    return [
        _listed(kind, "nothing wrong is paid", paid, f"{rejected - len(paid)} of {rejected}", most=0),
        _listed(kind, "what is right is recognised", missed, f"{wanted - len(missed)} of {wanted}", most=int(wanted * MOST_MISSED)),
        CheckResult(
            kind=kind, name="policies", status="passed", detail=f"{len(policies)} cases judged by another policy", failures=tuple(policies)
        ),
    ]


async def _code(session: Session, kind: str) -> list[CheckResult]:
    cases = code_cases()
    answers = await _in_batches(session, [case.request(kind) for case in cases])
    wrong = [
        f"{case.id}: {answer.verdict}, must be {case.verdict} ({answer.reason}) {case.note}".rstrip()
        for case, answer in zip(cases, answers, strict=True)
        if not fits(answer, case.verdict)
    ]
    programs = _listed(kind, "programs get their verdicts", wrong, f"{len(cases) - len(wrong)} of {len(cases)}", most=0)
    try:
        failures, every = await attack_failures(session, kind)
    except OprimeError as error:
        return [programs, CheckResult(kind=kind, name=ATTACKS_CHECK, status="failed", detail=str(error))]
    return [programs, _listed(kind, ATTACKS_CHECK, failures, f"{every - len(failures)} of {every}", most=0)]


def fits(answer: Answer, expected: str) -> bool:
    return answer.verdict != Verdict.CORRECT if expected == NOT_CORRECT else answer.verdict == expected


def _listed(kind: str, name: str, failures: Sequence[str], detail: str, *, most: int) -> CheckResult:
    status = "passed" if len(failures) <= most else "failed"
    return CheckResult(kind=kind, name=name, status=status, detail=detail, failures=tuple(failures))


async def _in_batches(session: Session, requests: Sequence[Any]) -> list[Answer]:
    answers: list[Answer] = []
    for start in range(0, len(requests), BATCH):
        answers += await session.ask(requests[start : start + BATCH])
        await asyncio.sleep(0)
    return answers
