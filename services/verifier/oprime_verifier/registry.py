"""The verifiers of a worker process by name: the built-in ones, or one plug-in. The service itself imports none of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from oprime.core.verification import Outcome, Verdict, VerificationRequest, unscored
from oprime_verifier.texts import shown

Verify = Callable[[VerificationRequest], Outcome]


def _nothing() -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    name: str
    verify: Verify
    version: str
    description: str
    options_schema: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def described(self) -> dict[str, Any]:
        """Fields of a `VerifierDescription`."""
        return {
            "name": self.name,
            "version": self.version,
            "description": self.description,
            "options_schema": dict(self.options_schema),
        }


class Registry:
    """What a worker judges with."""

    def __init__(
        self, entries: list[Entry], *, self_test: Callable[[], dict[str, Any]] = dict, close: Callable[[], None] = _nothing
    ) -> None:
        self.entries = {entry.name: entry for entry in entries}
        self.self_test = self_test
        """What the sandbox holds back, found by trying; empty where no model code runs."""
        self.close = close

    def judge(self, request: VerificationRequest) -> Outcome:
        """Judge one request. Whatever a verifier raises is INFRA_ERROR, never a score."""
        try:
            return shown(self.entries[request.kind].verify(request))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a plug-in may raise anything; it must not end the worker
            reason = f"verifier {request.kind} raised {type(error).__name__}: {error}"
            return shown(unscored(Verdict.INFRA_ERROR, reason, cacheable=False))
