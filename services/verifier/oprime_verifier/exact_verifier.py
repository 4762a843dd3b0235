"""Verifiers that compare text: `exact` and the built-in chain task's `chain`."""

from oprime.core.types import Outcome, OutcomeStatus

MARKER = "#"


def verify_exact(response: str, ground_truth: str) -> Outcome:
    """Compare the text after the last `#`, or the whole response where there is none, with the ground truth.

    Spaces at the ends do not count.
    """
    gold = ground_truth.strip()
    if not gold:
        return _no_ground_truth("exact")
    answer = response.rpartition(MARKER)[2].strip()
    if not answer:
        return Outcome(status=OutcomeStatus.INVALID, score=0.0, reason="the response has no answer")
    return _compared(answer, gold)


def verify_chain(response: str, ground_truth: str) -> Outcome:
    """Compare the last word, which must be `#ANSWER`, with the ground truth: `=1 =6 #8` answers 8."""
    gold = ground_truth.strip().removeprefix(MARKER)
    if not gold:
        return _no_ground_truth("chain")
    words = response.split()
    last = words[-1] if words else ""
    if not last.startswith(MARKER) or last == MARKER:
        return Outcome(status=OutcomeStatus.INVALID, score=0.0, reason="the response does not end with #ANSWER")
    return _compared(last.removeprefix(MARKER), gold)


def _compared(answer: str, gold: str) -> Outcome:
    return Outcome(status=OutcomeStatus.SCORED, score=1.0 if answer == gold else 0.0, answer=answer)


def _no_ground_truth(verifier: str) -> Outcome:
    reason = f"the ground truth is empty: verifier {verifier} needs an answer to compare with; correct the task's row"
    return Outcome(status=OutcomeStatus.ERROR, score=None, reason=reason)
