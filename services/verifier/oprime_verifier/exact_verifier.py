"""Verifiers that compare text: `exact` and the built-in chain task's `chain`."""

from oprime.core.verification import Outcome, Verdict, VerificationRequest, correct, incorrect, no_answer, unscored

MARKER = "#"


def verify_exact(request: VerificationRequest) -> Outcome:
    """Compare the text after the last `#`, or the whole response where there is none, with each gold.

    Spaces at the ends do not count.
    """
    golds = tuple(gold.strip() for gold in request.golds)
    if not all(golds) or not golds:
        return _no_gold("exact")
    answer = request.response.rpartition(MARKER)[2].strip()
    return _compared(answer, golds) if answer else no_answer("the response has no answer")


def verify_chain(request: VerificationRequest) -> Outcome:
    """Compare the last word, which must be `#ANSWER`, with each gold: `=1 =6 #8` answers 8."""
    golds = tuple(gold.strip().removeprefix(MARKER) for gold in request.golds)
    if not all(golds) or not golds:
        return _no_gold("chain")
    words = request.response.split()
    last = words[-1] if words else ""
    if not last.startswith(MARKER) or last == MARKER:
        return no_answer("the response does not end with #ANSWER")
    return _compared(last.removeprefix(MARKER), golds)


def _compared(answer: str, golds: tuple[str, ...]) -> Outcome:
    return correct(answer=answer) if answer in golds else incorrect(answer=answer)


def _no_gold(verifier: str) -> Outcome:
    reason = f"the ground truth is empty: verifier {verifier} needs an answer to compare with; correct the task's row"
    return unscored(Verdict.BAD_TASK, reason)
