"""Calls to the PRM, from one version of it that the caller may name."""

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

import grpc

from oprime_gateway.problems import ProblemError, ServiceFailedError
from oprime_gateway.services import STATUS_TIMEOUT_S, Services, call
from oprime_proto.v1 import prm_pb2 as pb

MODEL = "prm"
NO_VERSION = 2**63 - 1
"""Larger numbers, which no version has, are taken for this one."""

Asked = pb.ScoreItem | str
"""An item to score, or why it cannot be scored; the others can."""


def revision(prm_version: int) -> str:
    return f"{MODEL}@{prm_version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """The version that the caller wants: that of the model's name, and those of If-Match."""

    model: str = MODEL
    if_match: str | None = None

    def check_name(self) -> None:
        """Raises ProblemError (404) for a model that there has never been."""
        alias, at, version = self.model.partition("@")
        if alias != MODEL or (at and not (version.isascii() and version.isdecimal())):
            raise ProblemError(
                HTTPStatus.NOT_FOUND,
                f"unknown model {self.model!r}: use {MODEL}, or {MODEL}@VERSION; GET /v1/models says which version answers",
            )

    def check(self, prm_version: int) -> None:
        """Raises ProblemError: 412 where If-Match names other versions, 404 where the model does."""
        served = revision(prm_version)
        if self.if_match is not None and not _matches(self.if_match, served):
            said = (
                f"the PRM is {served}, If-Match asks for {self.if_match}: leave it out to take any version{_quoting(self.if_match, served)}"
            )
            raise ProblemError(HTTPStatus.PRECONDITION_FAILED, said)
        if self.model not in (MODEL, served):
            # Versions count up.
            fate = "is not served any more" if (self.version or 0) < prm_version else "does not exist"
            raise ProblemError(HTTPStatus.NOT_FOUND, f"model {self.model} {fate}: the revision now is {served}")

    @property
    def version(self) -> int | None:
        """The one version that the model's name asks for."""
        version = self.model.partition("@")[2]
        return min(int(version), NO_VERSION) if version else None

    @property
    def is_any(self) -> bool:
        return self.model == MODEL and self.if_match is None

    def check_offer(self, status: pb.PrmServiceStatusResponse) -> None:
        """Raises ProblemError where no version that answers by name, nor the newest, is one that is asked for."""
        if self.version in status.versions:
            self.check(self.version or 0)
        elif self.version is not None and len(status.versions) > 1:
            there = ", ".join(map(revision, status.versions))
            raise ProblemError(HTTPStatus.NOT_FOUND, f"model {self.model} is not served: there are {there}")
        else:
            self.check(status.prm_version)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Answers to what was asked, in order, all of one version."""

    answers: Sequence[pb.ScoredResponse]
    prm_version: int
    beta: float
    reference_model: str

    @property
    def revision(self) -> str:
        return revision(self.prm_version)


async def check_pin(services: Services, pin: Pin) -> None:
    """Before anything is scored. Raises ProblemError where the version is another, ServiceFailedError where nobody can tell."""
    pin.check_name()
    if not pin.is_any:
        pin.check_offer(await call("prm", services.prm.Status, pb.PrmServiceStatusRequest(), STATUS_TIMEOUT_S))


async def score(services: Services, asked: Sequence[Asked], pin: Pin) -> Scored:
    """Raises ProblemError where the version that scored is not the one that was asked for, ServiceFailedError where the PRM fails."""
    message = pb.ScoreRequest(items=[item for item in asked if not isinstance(item, str)], prm_version=pin.version)
    answer = await call("prm", services.prm.Score, message, services.timeout_s)
    pin.check(answer.prm_version)
    if len(answer.responses) != len(message.items):
        counts = f"{len(answer.responses)} answers to {len(message.items)} items"
        raise ServiceFailedError("prm", grpc.StatusCode.INTERNAL, f"{counts}: gateway and PRM run different versions")
    answers = iter(answer.responses)
    return Scored(
        answers=[pb.ScoredResponse(error=item) if isinstance(item, str) else next(answers) for item in asked],
        prm_version=answer.prm_version,
        beta=answer.beta,
        reference_model=answer.reference_model,
    )


def _matches(if_match: str, served: str) -> bool:
    """RFC 9110: `*`, or a list of entity tags; weak ones never match."""
    return any(tag.strip() in ("*", f'"{served}"') for tag in if_match.split(","))


def _quoting(if_match: str, served: str) -> str:
    """What to add where something in If-Match is no entity tag."""
    tags = (tag.strip().removeprefix("W/") for tag in if_match.split(","))
    if all(tag == "*" or (len(tag) > 1 and tag[0] == tag[-1] == '"') for tag in tags):
        return ""
    return f""", and write an entity tag in double quotes: `If-Match: "{served}"`"""
