import pytest

from oprime.core.types import OutcomeStatus
from oprime_verifier.exact_verifier import verify_chain, verify_exact


@pytest.mark.parametrize(
    ("response", "score"),
    [("=1 =6 #8", 1.0), ("=1 =6 #8\n", 1.0), ("#8", 1.0), ("=1 =6 #9", 0.0), ("#8 =1 #9", 0.0), ("=1 #88", 0.0)],
)
def test_a_chain_is_right_when_its_last_word_is_the_answer(response: str, score: float) -> None:
    outcome = verify_chain(response, "8")
    assert (outcome.status, outcome.score) == (OutcomeStatus.SCORED, score)


@pytest.mark.parametrize("response", ["", "=1 =6 =8", "#8 =1", "8", "=1 #", "#8 #"])
def test_a_chain_without_an_answer_at_its_end_is_invalid(response: str) -> None:
    outcome = verify_chain(response, "8")
    assert (outcome.status, outcome.score) == (OutcomeStatus.INVALID, 0.0)


@pytest.mark.parametrize(
    ("response", "score"), [("blue", 1.0), (" blue\n", 1.0), ("it is # blue ", 1.0), ("#### blue", 1.0), ("Blue", 0.0), ("it is blue", 0.0)]
)
def test_exact_compares_the_text_after_the_last_marker(response: str, score: float) -> None:
    outcome = verify_exact(response, " blue ")
    assert (outcome.status, outcome.score) == (OutcomeStatus.SCORED, score)


@pytest.mark.parametrize("response", ["", "  \n", "blue #"])
def test_exact_needs_an_answer(response: str) -> None:
    assert verify_exact(response, "blue").status is OutcomeStatus.INVALID


@pytest.mark.parametrize("verify", [verify_chain, verify_exact])
def test_an_empty_ground_truth_is_an_error(verify) -> None:
    outcome = verify("#8", " ")
    assert (outcome.status, outcome.score) == (OutcomeStatus.ERROR, None)
    assert "ground truth is empty" in outcome.reason
