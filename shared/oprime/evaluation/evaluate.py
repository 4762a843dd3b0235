"""Asks every problem, has every response judged, and keeps what was found.

takes      problems, and the samples that an earlier evaluation kept
waits for  whoever samples (a model here, a server, a run's generators), then for whoever judges
gives      one record per sample, in the order in which they are judged
stops      at the first failure that is not a response's own; the records before it are kept, and the same call goes on from there
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from oprime.core.types import rollout_seed
from oprime.core.verification import Outcome, VerificationRequest
from oprime.evaluation.benchmark import Decoding, PaperRequest, Problem
from oprime.evaluation.samples import NOT_ASKED, Grade, Sample, SampleFile
from oprime.runtime.errors import UnusableInputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    text: str
    finish_reason: str
    """`stop` or `length`."""
    tokens: int
    """0 where it is not known."""
    weight_version: int | None = None


class Sampling(Protocol):
    """Whoever samples."""

    async def sample(self, problem: Problem, number: int, decoding: Decoding, seed: int) -> Response:
        """Sample `number`, counted from 0, of a problem.

        Raises UnusableInputError for a prompt that cannot be sampled from, and OprimeError when asking further is useless.
        """
        ...


class Judging(Protocol):
    """Whoever judges."""

    async def judge(self, request: VerificationRequest) -> Outcome: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is asked, and how."""

    problems: Sequence[Problem]
    samples: int
    """Per problem."""
    decoding: Decoding
    seed: int = 0
    paper: PaperRequest | None = None
    judges: str = ""
    """Version and settings of who judges. Samples that others judged are judged again."""
    at_once: int = 64
    """Samples under way at the same time."""

    @property
    def total(self) -> int:
        return len(self.problems) * self.samples

    def places(self) -> list[tuple[Problem, int]]:
        """Every sample, all first ones before all second ones."""
        return [(problem, sample) for sample in range(self.samples) for problem in self.problems]

    def is_settled(self, file: SampleFile, problem: Problem, number: int) -> bool:
        """Whether a sample is there, and judged by who judges now."""
        kept = file.samples.get((problem.id, number))
        return kept is not None and not kept.failed and (kept.judges == self.judges or kept.grade.verdict == NOT_ASKED)

    def responses_missing(self, file: SampleFile) -> int:
        """How many samples are yet to be made."""
        return sum((problem.id, number) not in file.samples for problem, number in self.places())


class Evaluation:
    """One benchmark under way."""

    def __init__(self, plan: Plan, sampling: Sampling, judging: Judging, file: SampleFile, note: Callable[[int], None]) -> None:
        """`note` hears how many samples are settled."""
        self._plan = plan
        self._sampling = sampling
        self._judging = judging
        self._file = file
        self._note = note
        self._slots = asyncio.Semaphore(plan.at_once)
        self._settled = 0

    async def run(self) -> list[Sample]:
        """All samples of the plan, in its order. Raises what sampling raises when it is useless to go on."""
        left = [(problem, number) for problem, number in self._plan.places() if not self._plan.is_settled(self._file, problem, number)]
        self._settled = self._plan.total - len(left)
        self._note(self._settled)
        await _all_or_first_failure([self._one(problem, number) for problem, number in left])
        return [self._file.samples[problem.id, number] for problem, number in self._plan.places()]

    async def _one(self, problem: Problem, number: int) -> None:
        async with self._slots:
            kept = self._file.samples.get((problem.id, number))
            sample = await self._graded(problem, kept or await self._sampled(problem, number))
        self._file.append(sample)
        self._settled += 1
        self._note(self._settled)

    async def _sampled(self, problem: Problem, number: int) -> Sample:
        # Training groups count up from 0, so these negative ids never share a seed with them.
        seed = rollout_seed(self._plan.seed, -1 - problem.index, number)
        decoding = self._plan.decoding
        try:
            response = await self._sampling.sample(problem, number, decoding, seed)
        except UnusableInputError as error:
            refused = Grade(verdict=NOT_ASKED, score=None, reason=str(error))
            return Sample(problem=problem.id, sample=number, seed=seed, response="", finish_reason="", tokens=0, grade=refused)
        return Sample(
            problem=problem.id,
            sample=number,
            seed=seed,
            response=decoding.cut(response.text),
            finish_reason=response.finish_reason,
            tokens=response.tokens,
            weight_version=response.weight_version,
            grade=Grade(verdict="", score=None),
        )

    async def _graded(self, problem: Problem, sample: Sample) -> Sample:
        if sample.grade.verdict == NOT_ASKED:
            return sample
        requests = [problem.task.verification(sample.response, group_id=problem.id)]
        if self._plan.paper is not None:
            requests.append(self._plan.paper(problem.task, sample.response))
        grades = [Grade.of(outcome) for outcome in await asyncio.gather(*map(self._judging.judge, requests))]
        return replace(sample, grade=grades[0], paper=grades[1] if len(grades) > 1 else None, judges=self._plan.judges)


async def _all_or_first_failure(work: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Do all of it at once; the first failure ends the rest, and is raised."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
