"""From the reports of single tests to the outcome of the task."""

from collections import defaultdict

from oprime.core.verification import Outcome, Verdict
from oprime_verifier.code.options import Scoring
from oprime_verifier.code.suite import TestSuite
from oprime_verifier.code.task import Report, Task


def outcome_of(task: Task, reports: list[Report]) -> Outcome:
    """`reports` in the order they were run; with an early stop, the last one is the failure."""
    suite, options = task.suite, task.options
    wanted = min(suite.count, options.first_k) if options.pays is Scoring.FIRST_K else suite.count
    passed = sum(report.passed for report in reports)
    failure = next((report for report in reports if not report.passed), None)
    tests = tuple(sorted((report.result for report in reports), key=lambda result: result.index))
    flags = tuple(sorted({flag for report in reports for flag in report.flags}))
    # What fails beside the tests fails the task, as it would fail the authors' run.
    if passed == wanted and failure is None:
        return Outcome(verdict=Verdict.CORRECT, score=1.0, reason=f"{passed} of {wanted} tests passed", tests=tests, flags=flags)
    score = _score(options.pays, suite, reports, wanted)
    why = failure.reason if failure else "some tests were not reached"
    reason = f"{why}; {passed} of {len(reports)} tests run passed" + (f", {wanted} in all" if wanted != len(reports) else "")
    verdict = Verdict.PARTIAL if score > 0 else (failure.result.verdict if failure else Verdict.RUNTIME)
    # A loaded host makes programs slow, so what a test lost by its time may be won the next time, also in a partial score.
    in_time = all(test.verdict is not Verdict.TIME for test in tests)
    return Outcome(verdict=verdict, score=score, reason=reason, tests=tests, flags=flags, cacheable=in_time)


def _score(scoring: Scoring, suite: TestSuite, reports: list[Report], wanted: int) -> float:
    if scoring is Scoring.SHARE:
        return sum(report.passed for report in reports) / wanted
    if scoring is Scoring.WEIGHTED:
        return _weighted(suite, {report.result.index for report in reports if report.passed})
    return 0.0


def _weighted(suite: TestSuite, passed: set[int]) -> float:
    """A group pays the weight of its tests when all of them pass; a test without a group is one by itself."""
    cases = [*suite.programs, *suite.calls]
    if not cases:
        return len(passed) / suite.count
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for index, case in enumerate(cases):
        groups[f"group {case.group}" if case.group else f"test {index}"].append(index)
    total = sum(case.weight for case in cases)
    paid = sum(sum(cases[index].weight for index in indices) for indices in groups.values() if passed.issuperset(indices))
    return paid / total if total else 0.0
