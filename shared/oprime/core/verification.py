"""What a verifier is asked and what it answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    """The finest answer of a verifier."""

    CORRECT = "CORRECT"
    INCORRECT = "INCORRECT"
    PARTIAL = "PARTIAL"
    """Some tests passed, and the task pays for a part."""
    UNDECIDED = "UNDECIDED"
    """The verifier could not tell. Never a score."""
    NO_ANSWER = "NO_ANSWER"
    """The response has nothing to grade; it scores 0."""
    TIME = "TIME"
    """A program ran out of CPU or wall time."""
    MEMORY = "MEMORY"
    OUTPUT = "OUTPUT"
    """A program wrote more than it may."""
    RUNTIME = "RUNTIME"
    """A program ended by an exception, a signal or a non-zero exit code."""
    COMPILE = "COMPILE"
    VIOLATION = "VIOLATION"
    """A program did what the sandbox forbids, and failed by it."""
    BAD_TASK = "BAD_TASK"
    """Ground truth, tests or options cannot be used. Never a score."""
    INFRA_ERROR = "INFRA_ERROR"
    """The verifier failed; worth a retry. Never a score."""
    NOT_APPLICABLE = "NOT_APPLICABLE"
    """The verifier has nothing to say about this response. Never a score."""


class OutcomeStatus(StrEnum):
    """What the loop makes of a verdict."""

    SCORED = "scored"
    INVALID = "invalid"
    """The response cannot be graded; its score is 0."""
    ERROR = "error"
    """No fault of the response; the rollout is dropped, and never scored."""


UNSCORED = frozenset({Verdict.UNDECIDED, Verdict.BAD_TASK, Verdict.INFRA_ERROR, Verdict.NOT_APPLICABLE})
"""Verdicts that say nothing about the response and therefore carry no score."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TestResult:
    """How one test of a code task ended. Holds no hidden input or output."""

    __test__ = False

    index: int
    """Place of the test in the task."""
    verdict: Verdict
    cpu_s: float = 0.0
    wall_s: float = 0.0
    peak_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierIdentity:
    """Who judged, so that two scores can be told apart."""

    name: str = ""
    version: str = ""
    config_hash: str = ""
    sandbox_profile: str = ""
    """Where model code ran; empty when none did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A verifier's judgement. `score` is in [0, 1], and None exactly for the verdicts in `UNSCORED`."""

    verdict: Verdict
    score: float | None
    reason: str = ""
    """Short, for a person, and safe to log."""
    answer: str = ""
    """What was graded, as extracted from the response."""
    components: Mapping[str, float] = field(default_factory=dict[str, float])
    """Parts of the score by name."""
    tests: tuple[TestResult, ...] = ()
    """In the order of the task; tests that an early stop left out are missing."""
    timings: Mapping[str, float] = field(default_factory=dict[str, float])
    """Seconds by phase."""
    verifier: VerifierIdentity = VerifierIdentity()
    flags: tuple[str, ...] = ()
    """Observations beside the verdict, for example `hack_suspected`."""
    cacheable: bool = True
    """Whether the same request would be judged alike again."""

    def __post_init__(self) -> None:
        if self.verdict in UNSCORED and self.score is not None:
            raise ValueError(f"an outcome {self.verdict} carries no score, got {self.score}: it is no fault of the response")
        if self.verdict not in UNSCORED and not (self.score is not None and 0 <= self.score <= 1):
            raise ValueError(f"an outcome {self.verdict} needs a score in [0, 1], got {self.score}")

    @property
    def brief(self) -> "Outcome":
        """Verdict and score: what travels on with the rollout."""
        return Outcome(verdict=self.verdict, score=self.score)

    @property
    def status(self) -> OutcomeStatus:
        """The loop's tri-state."""
        if self.verdict in UNSCORED:
            return OutcomeStatus.ERROR
        return OutcomeStatus.INVALID if self.verdict is Verdict.NO_ANSWER else OutcomeStatus.SCORED


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationRequest:
    """One response with all that its verifier needs."""

    kind: str
    """Name of the verifier: `math`, `code`, another built-in one, a plug-in or a composition."""
    response: str
    golds: tuple[str, ...] = ()
    """Accepted answers; any of them is right."""
    tests: str = ""
    """Tests of a code task, as JSON in one of the encodings of docs/verifier.md. Where empty, a single gold is read as the tests."""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Options of the verifier, by name (`MathOptions`, `CodeOptions`, or the plug-in's own)."""
    prompt: str = ""
    request_id: str = ""
    """Echoed in the answer; requests with one id are the same request."""
    task_id: str = ""
    group_id: str = ""
    """Siblings of one prompt; they share golds and tests."""
    data_source: str = ""
    deadline_s: float = 0.0
    """Seconds until the caller has no more use for an answer; 0 leaves it to the service."""
    seed: int = 0
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])


def correct(**details: Any) -> Outcome:
    return Outcome(verdict=Verdict.CORRECT, score=1.0, **details)


def incorrect(**details: Any) -> Outcome:
    return Outcome(verdict=Verdict.INCORRECT, score=0.0, **details)


def no_answer(reason: str, **details: Any) -> Outcome:
    return Outcome(verdict=Verdict.NO_ANSWER, score=0.0, reason=reason, **details)


def unscored(verdict: Verdict, reason: str, **details: Any) -> Outcome:
    """An outcome that is no fault of the response. Raises ValueError for a verdict that needs a score."""
    return Outcome(verdict=verdict, score=None, reason=reason, **details)


def scored(score: float, **details: Any) -> Outcome:
    """An outcome by its score alone: 1 is CORRECT, 0 INCORRECT, what lies between PARTIAL."""
    verdict = {1.0: Verdict.CORRECT, 0.0: Verdict.INCORRECT}.get(score, Verdict.PARTIAL)
    return Outcome(verdict=verdict, score=score, **details)
