"""Hostile programs through the kind `code`: each must get a verdict of the table, and the target must live on."""

from dataclasses import replace

from oprime.core.verification import Verdict
from oprime.runtime.errors import OprimeError
from oprime_verifier.conformance.attacks.escapes import ESCAPES
from oprime_verifier.conformance.attacks.misbehaviours import MISBEHAVIOURS
from oprime_verifier.conformance.attacks.tasks import Attack
from oprime_verifier.conformance.checks import CheckFailedError, Session, plain_request
from oprime_verifier.conformance.targets import RefusedError

USUAL_CHARS = 1_000_000
"""A target may refuse longer requests, or judge longer responses unread."""

ATTACKS: tuple[Attack, ...] = (*MISBEHAVIOURS, *ESCAPES)
"""All hostile submissions, for the tests and for the conformance command."""


async def attack_failures(session: Session, kind: str) -> tuple[list[str], int]:
    """Attacks that were not answered as they must, one line each, and how many there are.

    Raises CheckFailedError when the target does not judge an honest program afterwards.
    """
    wrong: list[str] = []
    for attack in ATTACKS:
        try:
            problem = await _problem(session, kind, attack)
        except OprimeError as error:
            problem = f"the target failed: {error}"
        wrong += [f"{attack.name}: {problem}"] if problem else []
    after = await session.ask_one(plain_request(kind))
    if after.verdict != Verdict.CORRECT:
        raise CheckFailedError(f"after the attacks, a right answer is {after.verdict}: {after.reason}")
    return wrong, len(ATTACKS)


async def _problem(session: Session, kind: str, attack: Attack) -> str:
    request = replace(attack.request(), kind=kind)
    is_long = max(len(request.response), len(request.tests)) > USUAL_CHARS
    try:
        answer = await session.ask_one(request)
    except RefusedError:
        if is_long:
            return ""
        raise
    if answer.verdict in attack.verdicts or (is_long and answer.verdict == Verdict.NO_ANSWER):
        return ""
    return f"{answer.verdict}, must be {' or '.join(sorted(attack.verdicts))} ({answer.reason})"
