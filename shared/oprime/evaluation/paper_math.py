"""Asks for the paper's grading of an answer to a mathematics benchmark: the verifier `paper_math` (services/verifier) has its rules."""

from oprime.core.types import Task
from oprime.core.verification import VerificationRequest


def contest(task: Task, response: str) -> VerificationRequest:
    """AIME, AMC: the authors' own scripts, which cut letters of phrases off the ends of an answer."""
    return _request(task, response, rules="boxed", stripped=True)


def boxed(task: Task, response: str) -> VerificationRequest:
    """MATH-500: the authors' own script."""
    return _request(task, response, rules="boxed")


def harness(task: Task, response: str) -> VerificationRequest:
    """OlympiadBench: the Qwen2.5-Math harness, which the authors ran for it."""
    return _request(task, response, rules="harness")


def harness_with_units(task: Task, response: str) -> VerificationRequest:
    """Minerva Math: the same, but units stay in the answer."""
    return _request(task, response, rules="harness", units=True)


def _request(task: Task, response: str, **options: str | bool) -> VerificationRequest:
    return VerificationRequest(
        kind="paper_math", response=response, golds=(task.ground_truth,), options=options, data_source=task.data_source
    )
