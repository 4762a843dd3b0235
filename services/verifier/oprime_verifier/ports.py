"""What the service process dispatches to."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from oprime.core.verification import Outcome, Verdict, VerificationRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierDescription:
    """What callers can know of a verifier."""

    name: str
    version: str = ""
    description: str = ""
    options_schema: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """JSON schema of the request's options; empty when it takes any."""
    problem: str = ""
    """Why it cannot be used; empty when it can."""
    outage: str = ""
    """Why it does not answer just now, and since when; empty when it does."""


class Verifier(Protocol):
    """Judges requests of one kind from the service process, where no model code and no plug-in code runs."""

    async def verify(self, request: VerificationRequest) -> Outcome:
        """Judge one request. A failure is an Outcome INFRA_ERROR, never an exception."""
        ...

    def describe(self) -> VerifierDescription: ...

    async def close(self) -> None: ...


_PASSING = frozenset({Verdict.INFRA_ERROR, Verdict.UNDECIDED, Verdict.TIME})
"""Verdicts that more time might change."""


def lasts(outcome: Outcome) -> bool:
    """Whether another try, also one with more time, would end alike."""
    return outcome.cacheable and outcome.verdict not in _PASSING
