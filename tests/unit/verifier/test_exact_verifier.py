from collections.abc import Callable

import pytest

from oprime.core.verification import Outcome, OutcomeStatus, Verdict, VerificationRequest
from oprime_verifier.exact_verifier import verify_chain, verify_exact


def asked(response: str, *golds: str) -> VerificationRequest:
    return VerificationRequest(kind="exact", response=response, golds=golds)


@pytest.mark.parametrize(
    ("response", "score"),
    [("=1 =6 #8", 1.0), ("=1 =6 #8\n", 1.0), ("#8", 1.0), ("=1 =6 #9", 0.0), ("#8 =1 #9", 0.0), ("=1 #88", 0.0)],
)
def test_a_chain_is_right_when_its_last_word_is_the_answer(response: str, score: float) -> None:
    outcome = verify_chain(asked(response, "8"))
    assert (outcome.status, outcome.score) == (OutcomeStatus.SCORED, score)


@pytest.mark.parametrize("response", ["", "=1 =6 =8", "#8 =1", "8", "=1 #", "#8 #"])
def test_a_chain_without_an_answer_at_its_end_is_invalid(response: str) -> None:
    outcome = verify_chain(asked(response, "8"))
    assert (outcome.status, outcome.score) == (OutcomeStatus.INVALID, 0.0)


@pytest.mark.parametrize(
    ("response", "score"), [("blue", 1.0), (" blue\n", 1.0), ("it is # blue ", 1.0), ("#### blue", 1.0), ("Blue", 0.0), ("it is blue", 0.0)]
)
def test_exact_compares_the_text_after_the_last_marker(response: str, score: float) -> None:
    outcome = verify_exact(asked(response, " blue "))
    assert (outcome.status, outcome.score) == (OutcomeStatus.SCORED, score)


@pytest.mark.parametrize("response", ["", "  \n", "blue #"])
def test_exact_needs_an_answer(response: str) -> None:
    assert verify_exact(asked(response, "blue")).status is OutcomeStatus.INVALID


@pytest.mark.parametrize("verify", [verify_chain, verify_exact])
@pytest.mark.parametrize("golds", [(), ("",), ("8", " ")])
def test_an_empty_gold_is_a_bad_task_and_no_score(verify: Callable[[VerificationRequest], Outcome], golds: tuple[str, ...]) -> None:
    outcome = verify(asked("#8", *golds))
    assert (outcome.verdict, outcome.score) == (Verdict.BAD_TASK, None)
    assert "ground truth is empty" in outcome.reason


@pytest.mark.parametrize("verify", [verify_chain, verify_exact])
def test_any_of_several_golds_is_right(verify: Callable[[VerificationRequest], Outcome]) -> None:
    assert verify(asked("#9", "8", "9")).verdict is Verdict.CORRECT
    assert verify(asked("#7", "8", "9")).verdict is Verdict.INCORRECT
