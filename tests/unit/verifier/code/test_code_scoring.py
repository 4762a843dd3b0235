"""From single tests to the outcome of a task."""

import json
from typing import Any, cast

import pytest

from oprime.core.verification import TestResult, Verdict
from oprime_verifier.code.formats import parse_tests
from oprime_verifier.code.options import CodeOptions, Scoring
from oprime_verifier.code.scoring import outcome_of
from oprime_verifier.code.task import Report, Task

NO_SANDBOX = cast(Any, None)
TESTS = json.dumps({"inputs": ["1", "2"], "outputs": ["1", "2"]})


@pytest.mark.parametrize(
    ("second", "verdict", "cacheable"),
    [
        (Verdict.CORRECT, Verdict.CORRECT, True),
        (Verdict.INCORRECT, Verdict.PARTIAL, True),
        # A loaded host makes programs slow: the half that is missing here may be earned the next time.
        (Verdict.TIME, Verdict.PARTIAL, False),
    ],
)
def test_a_score_that_a_test_lost_by_its_time_is_not_remembered(second: Verdict, verdict: Verdict, cacheable: bool) -> None:
    task = Task(sandbox=NO_SANDBOX, suite=parse_tests(TESTS), program="", options=CodeOptions(scoring=Scoring.SHARE))
    reports = [Report(result=TestResult(index=index, verdict=result)) for index, result in enumerate((Verdict.CORRECT, second))]
    outcome = outcome_of(task, reports)
    assert (outcome.verdict, outcome.cacheable) == (verdict, cacheable)
