"""A verifier made of others. No failure of a part ever becomes a score.

What the verdict of a part means to each mode:

| part says | first_decided | all, weighted | gate: a condition | gate: the last part |
| --- | --- | --- | --- | --- |
| a verdict with a score | is the answer | counts | CORRECT: go on; else the answer, with score 0 | is the answer |
| UNDECIDED | the next part is asked | the whole is UNDECIDED | the whole is UNDECIDED | is the answer |
| NOT_APPLICABLE | the next part is asked | left out | go on | is the answer |
| INFRA_ERROR, BAD_TASK | is the answer | is the answer | is the answer | is the answer |

So a judge behind `first_decided` never overturns an INCORRECT. Parts that were not needed are not asked.
"""

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import fsum
from typing import Any

from oprime.core.verification import Outcome, Verdict, VerificationRequest, VerifierIdentity, scored, unscored
from oprime_verifier.external.settings import CompositionSection
from oprime_verifier.ports import Verifier, VerifierDescription, lasts

_UNDECIDED = frozenset({Verdict.UNDECIDED, Verdict.NOT_APPLICABLE})
_WORST_FIRST = (Verdict.INFRA_ERROR, Verdict.BAD_TASK, Verdict.UNDECIDED)
"""Which of several verdicts without a score is told."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one part said."""

    part: str
    outcome: Outcome


class Composition:
    """Asks its parts, which belong to whoever made them."""

    def __init__(
        self, name: str, section: CompositionSection, parts: Mapping[str, Verifier], *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._name = name
        self._section = section
        self._parts = {part: parts[part] for part in section.parts}
        self._now = now

    async def verify(self, request: VerificationRequest) -> Outcome:
        unknown = sorted(set(request.options) - set(self._parts))
        if unknown:
            return unscored(
                Verdict.BAD_TASK,
                f"the options name {unknown[0]!r}: options of {self._name} are by part, and its parts are {', '.join(self._parts)}",
            )
        ask = {"first_decided": self._first_decided, "gate": self._gate}.get(self._section.mode, self._together)
        answers = await ask(request)
        outcome = _MODES[self._section.mode](answers, self._section)
        return replace(outcome, **_joined(answers), verifier=self._identity(answers))

    def describe(self) -> VerifierDescription:
        described = {part: verifier.describe() for part, verifier in self._parts.items()}
        problems = [f"{part}: {known.problem}" for part, known in described.items() if known.problem]
        return VerifierDescription(
            name=self._name,
            version=self._version({part: known.version for part, known in described.items()}),
            description=f"{self._section.mode}({', '.join(self._section.parts)}); options are by part.",
            problem="; ".join(problems),
        )

    async def close(self) -> None:
        """Its parts are closed by whoever made them."""

    async def _first_decided(self, request: VerificationRequest) -> list[Answer]:
        return await self._in_order(request, lambda outcome: outcome.verdict in _UNDECIDED)

    async def _gate(self, request: VerificationRequest) -> list[Answer]:
        return await self._in_order(request, lambda outcome: outcome.verdict in (Verdict.CORRECT, Verdict.NOT_APPLICABLE))

    async def _in_order(self, request: VerificationRequest, goes_on: Callable[[Outcome], bool]) -> list[Answer]:
        answers: list[Answer] = []
        ends = self._now() + request.deadline_s
        for part in self._parts:
            left_s = ends - self._now()
            if request.deadline_s and left_s <= 0:
                outcome = unscored(Verdict.INFRA_ERROR, "no time was left to ask it", cacheable=False)
            else:
                outcome = await self._ask(part, request, left_s if request.deadline_s else 0.0)
            answers.append(Answer(part, outcome))
            if not goes_on(outcome):
                break
        return answers

    async def _together(self, request: VerificationRequest) -> list[Answer]:
        outcomes = await asyncio.gather(*(self._ask(part, request, request.deadline_s) for part in self._parts))
        return [Answer(part, outcome) for part, outcome in zip(self._parts, outcomes, strict=True)]

    async def _ask(self, part: str, request: VerificationRequest, deadline_s: float) -> Outcome:
        options = request.options.get(part, {})
        if not isinstance(options, Mapping):
            return unscored(Verdict.BAD_TASK, f"options.{part} is a {type(options).__name__}, not a table of options")
        return await self._parts[part].verify(replace(request, kind=part, options=options, deadline_s=deadline_s))

    def _identity(self, answers: list[Answer]) -> VerifierIdentity:
        said = {answer.part: answer.outcome.verifier for answer in answers}
        content = json.dumps([self._section.model_dump(), {part: identity.config_hash for part, identity in said.items()}], sort_keys=True)
        profiles = dict.fromkeys(identity.sandbox_profile for identity in said.values() if identity.sandbox_profile)
        return VerifierIdentity(
            name=self._name,
            version=self.describe().version,
            config_hash=hashlib.sha256(content.encode()).hexdigest()[:16],
            sandbox_profile=", ".join(profiles),
        )

    def _version(self, versions: Mapping[str, str]) -> str:
        parts = ", ".join(f"{part} {version}".rstrip() for part, version in versions.items())
        return f"{self._section.mode}({parts})"


def _last(answers: list[Answer], _section: CompositionSection) -> Outcome:
    """Of `first_decided`: the part that could tell, or UNDECIDED when any part could not; else nothing applied."""
    outcome = answers[-1].outcome
    if outcome.verdict is Verdict.NOT_APPLICABLE and any(answer.outcome.verdict is Verdict.UNDECIDED for answer in answers):
        return unscored(Verdict.UNDECIDED, outcome.reason)
    return outcome


def _through_the_gate(answers: list[Answer], section: CompositionSection) -> Outcome:
    outcome = answers[-1].outcome
    if len(answers) == len(section.parts) or outcome.score is None:
        return outcome
    # A condition that is half met is not met.
    return replace(outcome, verdict=Verdict.INCORRECT if outcome.verdict is Verdict.PARTIAL else outcome.verdict, score=0.0)


def _all(answers: list[Answer], _section: CompositionSection) -> Outcome:
    """The worst part; CORRECT when every part that applies is."""
    return _unscored_part(answers) or min(_applying(answers), key=lambda answer: _score(answer.outcome)).outcome


def _weighted(answers: list[Answer], section: CompositionSection) -> Outcome:
    """The weighted mean of the parts that apply."""
    if (failed := _unscored_part(answers)) is not None:
        return failed
    weights = dict(zip(section.parts, section.weights or (1.0,) * len(section.parts), strict=True))
    counted = _applying(answers)
    verdicts = {answer.outcome.verdict for answer in counted}
    if len(verdicts) == 1 and Verdict.PARTIAL not in verdicts:
        return counted[0].outcome
    total = fsum(weights[answer.part] * _score(answer.outcome) for answer in counted) / fsum(weights[answer.part] for answer in counted)
    answer = next((answer.outcome.answer for answer in counted if answer.outcome.answer), "")
    return scored(min(max(total, 0.0), 1.0), answer=answer)


def _unscored_part(answers: list[Answer]) -> Outcome | None:
    """Why the whole has no score, if it has none."""
    for verdict in _WORST_FIRST:
        found = next((answer.outcome for answer in answers if answer.outcome.verdict is verdict), None)
        if found is not None:
            return found
    return None if _applying(answers) else unscored(Verdict.NOT_APPLICABLE, "no part applies")


def _applying(answers: list[Answer]) -> list[Answer]:
    return [answer for answer in answers if answer.outcome.score is not None]


def _score(outcome: Outcome) -> float:
    return 0.0 if outcome.score is None else outcome.score


def _joined(answers: list[Answer]) -> dict[str, Any]:
    """Components, reasons, timings and flags of all parts; those of a part's parts are named `part.PART`."""
    components: dict[str, float] = {}
    timings: dict[str, float] = {}
    for answer in answers:
        outcome = answer.outcome
        if outcome.score is not None:
            components[answer.part] = outcome.score
        components |= {f"{answer.part}.{name}": value for name, value in outcome.components.items()}
        timings |= {f"{answer.part}.{name}": value for name, value in outcome.timings.items()}
    return {
        "components": components,
        "timings": timings,
        "reason": "; ".join(f"{answer.part}: {answer.outcome.reason or answer.outcome.verdict}" for answer in answers),
        "flags": tuple(dict.fromkeys(flag for answer in answers for flag in answer.outcome.flags)),
        "cacheable": all(lasts(answer.outcome) for answer in answers),
    }


_MODES: Mapping[str, Callable[[list[Answer], CompositionSection], Outcome]] = {
    "first_decided": _last,
    "all": _all,
    "weighted": _weighted,
    "gate": _through_the_gate,
}
