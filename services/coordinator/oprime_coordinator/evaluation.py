"""Held-out accuracy: samples every held-out problem, greedily and at temperature 1, and has the answers verified."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import grpc
import structlog

from oprime.core.types import SamplingSettings, Task, rollout_seed
from oprime.core.verification import OutcomeStatus
from oprime.runtime.errors import NotReadyError, OprimeError
from oprime.runtime.tracing import span
from oprime.wire.codec import messages_to_proto, sampling_to_proto
from oprime.wire.verification import outcome_from_proto, request_to_proto
from oprime_proto.v1 import generator_pb2, generator_pb2_grpc, verifier_pb2, verifier_pb2_grpc

log = structlog.get_logger()

CONCURRENT_PROBLEMS = 64
CALL_TIMEOUT_S = 1800.0
FOR_GOOD = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.UNIMPLEMENTED)
"""Answers that asking again does not change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    step: int
    heldout_accuracy: float
    heldout_greedy_accuracy: float
    problems: int
    answers: int
    unverified: int
    """Answers that the verifier could not judge; left out of the accuracies."""
    oldest_weight_version: int
    newest_weight_version: int
    seconds: float
    table: tuple[dict[str, Any], ...] = ()
    """A row for each of the first held-out problems: what was asked, what was answered, and how it was judged."""

    def numbers(self) -> dict[str, Any]:
        """All but the table."""
        return {name: value for name, value in asdict(self).items() if name != "table"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    scores: tuple[float, ...]
    unverified: int
    versions: tuple[int, ...]
    answers: tuple["JudgedAnswer", ...] = ()
    """The first answer to each of the first problems."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedAnswer:
    problem: str
    response: str
    score: float | None
    """None where the verifier could not judge it."""


class Evaluator:
    """Asks the generator and the verifier over gRPC; the queues are for training."""

    def __init__(
        self,
        problems: Sequence[Task],
        sampling: SamplingSettings,
        *,
        answers_per_problem: int,
        run_seed: int,
        generator: grpc.aio.Channel,
        verifier: grpc.aio.Channel,
        shown_problems: int = 0,
    ) -> None:
        """`shown_problems` of the first problems get a row in an evaluation's table."""
        self._problems = problems
        self._sampled = replace(sampling, temperature=1.0)
        self._greedy = replace(sampling, temperature=0.0)
        self._answers = answers_per_problem
        self._run_seed = run_seed
        self._shown = shown_problems
        self._generator = generator_pb2_grpc.GeneratorServiceStub(generator)
        self._verifier = verifier_pb2_grpc.VerifierServiceStub(verifier)
        self.judged = 0
        """Problems judged so far, over all evaluations."""

    @property
    def has_problems(self) -> bool:
        """False when no held-out tasks are configured."""
        return len(self._problems) > 0

    async def evaluate(self, step: int) -> Evaluation:
        """Accuracy with weights of at least version `step`.

        Raises NotReadyError when a service does not answer, and OprimeError when it refuses a problem for good.
        """
        started = time.monotonic()
        try:
            greedy = await self._judge_all(step, self._greedy, answers=1)
            sampled = await self._judge_all(step, self._sampled, answers=self._answers)
        except grpc.aio.AioRpcError as error:
            refused = error.code() in FOR_GOOD
            kind = OprimeError if refused else NotReadyError
            raise kind(f"evaluation after step {step} failed: {error.code().name} {error.details()}") from error
        versions = greedy.versions + sampled.versions
        return Evaluation(
            step=step,
            heldout_accuracy=_mean(sampled.scores),
            heldout_greedy_accuracy=_mean(greedy.scores),
            problems=len(self._problems),
            answers=len(sampled.scores),
            unverified=greedy.unverified + sampled.unverified,
            oldest_weight_version=min(versions),
            newest_weight_version=max(versions),
            seconds=time.monotonic() - started,
            table=tuple(
                {
                    "problem": one.problem,
                    "greedy response": one.response,
                    "greedy score": one.score,
                    "sampled response": other.response,
                    "sampled score": other.score,
                }
                for one, other in zip(greedy.answers, sampled.answers, strict=True)
            ),
        )

    async def _judge_all(self, step: int, sampling: SamplingSettings, *, answers: int) -> Judged:
        slots = asyncio.Semaphore(CONCURRENT_PROBLEMS)

        async def judge(index: int) -> Judged:
            async with slots:
                return await self._judge(index, step, sampling, answers)

        parts = await asyncio.gather(*(judge(index) for index in range(len(self._problems))))
        return Judged(
            scores=tuple(score for part in parts for score in part.scores),
            unverified=sum(part.unverified for part in parts),
            versions=tuple(version for part in parts for version in part.versions),
            answers=tuple(answer for part in parts for answer in part.answers),
        )

    async def _judge(self, index: int, step: int, sampling: SamplingSettings, answers: int) -> Judged:
        with span("evaluate", step=step, problem=index, answers=answers):
            return await self._judge_problem(index, step, sampling, answers)

    async def _judge_problem(self, index: int, step: int, sampling: SamplingSettings, answers: int) -> Judged:
        task = self._problems[index]
        request = generator_pb2.GenerateRequest(
            messages=messages_to_proto(task.messages),
            sampling=sampling_to_proto(sampling),
            # Training groups count up from 0, so these negative ids never share a seed with them.
            seeds=[rollout_seed(self._run_seed, -1 - index, answer) for answer in range(answers)],
            min_weight_version=step,
        )
        generated = await self._generator.Generate(request, timeout=CALL_TIMEOUT_S)
        verified = await self._verifier.VerifyBatch(
            verifier_pb2.VerifyBatchRequest(
                requests=[request_to_proto(task.verification(rollout.text, group_id=f"heldout:{index}")) for rollout in generated.rollouts]
            ),
            timeout=CALL_TIMEOUT_S,
        )
        outcomes = [outcome_from_proto(response) for response in verified.responses]
        self.judged += 1
        return Judged(
            scores=tuple(outcome.score for outcome in outcomes if outcome.score is not None),
            unverified=sum(outcome.status is OutcomeStatus.ERROR for outcome in outcomes),
            versions=tuple(segment.weight_version for rollout in generated.rollouts for segment in rollout.segments if segment.trained),
            answers=tuple(
                JudgedAnswer(problem=task.messages[-1].content, response=rollout.text, score=outcome.score)
                for rollout, outcome in zip(generated.rollouts[:1], outcomes[:1], strict=True)
                if index < self._shown
            ),
        )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
