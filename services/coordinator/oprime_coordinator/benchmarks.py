"""Benchmarks of a run: samples their problems with the run's generators, and has the responses verified.

takes      a step, after which they are due
waits for  weights of at least that step, at a generator; then for the verifier
gives      one folder per step, as `oprime eval` writes it, and one row of metrics per benchmark

Tickets are not involved: what is asked here has no place in the ledger and no staleness, and training goes on beside it.
"""

import shutil
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc

from oprime.core.types import SamplingSettings
from oprime.core.verification import Outcome, VerificationRequest
from oprime.evaluation.benchmark import Decoding, Problem
from oprime.evaluation.evaluate import Evaluation, Plan, Response
from oprime.evaluation.folder import EvaluationFolder
from oprime.evaluation.load import ProblemSet
from oprime.evaluation.of_run import EVALUATIONS, during_training, later_evaluations
from oprime.evaluation.results import concluded
from oprime.evaluation.samples import Sample
from oprime.runtime.errors import NotReadyError, OprimeError, UnusableInputError
from oprime.wire.codec import messages_to_proto, sampling_to_proto
from oprime.wire.verification import outcome_from_proto, request_to_proto
from oprime_coordinator.evaluation import CALL_TIMEOUT_S, FOR_GOOD
from oprime_proto.v1 import common_pb2, generator_pb2, generator_pb2_grpc, verifier_pb2, verifier_pb2_grpc

AT_ONCE = 32
"""Samples under way at the same time: enough to keep a generator busy between groups, few enough that groups wait for none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FromGenerators:
    """The Sampling port on the run's generators."""

    generator: generator_pb2_grpc.GeneratorServiceStub
    step: int
    """Oldest weight version to sample with."""
    max_prompt_tokens: int

    async def sample(self, problem: Problem, number: int, decoding: Decoding, seed: int) -> Response:
        sampling = SamplingSettings(
            temperature=decoding.temperature,
            top_p=decoding.top_p,
            max_prompt_tokens=self.max_prompt_tokens,
            max_response_tokens=decoding.max_tokens,
        )
        request = generator_pb2.GenerateRequest(
            messages=messages_to_proto(problem.task.messages),
            sampling=sampling_to_proto(sampling),
            seeds=[seed],
            min_weight_version=self.step,
        )
        try:
            (rollout,) = (await self.generator.Generate(request, timeout=CALL_TIMEOUT_S)).rollouts
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                raise UnusableInputError(str(error.details())) from error
            raise _failed("generator", error) from error
        sampled = [segment for segment in rollout.segments if segment.trained]
        return Response(
            text=rollout.text,
            finish_reason="length" if rollout.finish_reason == common_pb2.FINISH_REASON_LENGTH else "stop",
            tokens=sum(len(segment.token_ids) // 4 for segment in sampled),
            weight_version=max(segment.weight_version for segment in sampled),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ByVerifiers:
    """The Judging port on the run's verifiers."""

    verifier: verifier_pb2_grpc.VerifierServiceStub

    async def judge(self, request: VerificationRequest) -> Outcome:
        batch = verifier_pb2.VerifyBatchRequest(requests=[request_to_proto(request)])
        try:
            (response,) = (await self.verifier.VerifyBatch(batch, timeout=CALL_TIMEOUT_S)).responses
        except grpc.aio.AioRpcError as error:
            raise _failed("verifier", error) from error
        return outcome_from_proto(response)


class Benchmarks:
    """What `run.evaluate_on` names."""

    def __init__(
        self,
        sets: Sequence[ProblemSet],
        *,
        run_name: str,
        run_folder: Path,
        seed: int,
        max_prompt_tokens: int,
        generator: grpc.aio.Channel,
        verifier: grpc.aio.Channel,
    ) -> None:
        self._sets = sets
        self._run_name = run_name
        self._run_folder = run_folder
        self._seed = seed
        self._max_prompt_tokens = max_prompt_tokens
        self._generator = generator_pb2_grpc.GeneratorServiceStub(generator)
        self._verifier = verifier_pb2_grpc.VerifierServiceStub(verifier)
        self.settled = 0
        """Samples that were settled so far; moves while an evaluation goes on."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(one.name for one in self._sets)

    async def evaluate(self, step: int, *, but: Sequence[str] = ()) -> AsyncIterator[dict[str, Any]]:
        """A row of metrics for each benchmark but those in `but`, with weights of at least version `step`.

        What an earlier call sampled after this step is not sampled again. Raises NotReadyError when a service does not answer,
        OprimeError when it refuses for good or the disk does.
        """
        for one in self._sets:
            if one.name not in but:
                yield await self._evaluate(one, step)

    def forget_after(self, step: int) -> None:
        """The run goes back to `step`: what was found with later weights belongs to weights that never were."""
        for folder in later_evaluations(self._run_folder, step):
            shutil.rmtree(folder)

    async def _evaluate(self, asked: ProblemSet, step: int) -> dict[str, Any]:
        started = time.monotonic()
        samples, result = await self._result(asked, step)
        versions = [one.weight_version for one in samples if one.weight_version is not None]
        avg = next(iter(result["scores"].values()))
        return {
            "step": step,
            "benchmark": asked.name,
            "problems": len(asked.problems),
            "samples": asked.samples,
            "accuracy": avg["value"],
            "accuracy_low": avg["low"],
            "accuracy_high": avg["high"],
            "unjudged": result["unjudged"]["count"],
            "oldest_weight_version": min(versions, default=step),
            "newest_weight_version": max(versions, default=step),
            "seconds": time.monotonic() - started,
        }

    async def _result(self, asked: ProblemSet, step: int) -> tuple[list[Sample], dict[str, Any]]:
        folder = EvaluationFolder(self._run_folder / EVALUATIONS / during_training(step))
        target = {"run": self._run_name, "step": step}
        plan = Plan(
            problems=asked.problems,
            samples=asked.samples,
            decoding=asked.decoding,
            seed=self._seed,
            paper=asked.paper,
            judges=f"{version('oprime')} {self._run_name}",
            at_once=AT_ONCE,
        )
        sampling = FromGenerators(generator=self._generator, step=step, max_prompt_tokens=self._max_prompt_tokens)
        judging = ByVerifiers(verifier=self._verifier)
        file = folder.samples(asked.name, asked.settings(target, self._seed), fresh=False)
        try:
            samples = await Evaluation(plan, sampling, judging, file, self._note).run()
        finally:
            file.close()
        named = {"kind": "run", "name": f"{self._run_name}@{step}", **target, "during_training": True}
        problems, result = await concluded(asked, named, samples, judging, ks=[asked.samples], seed=self._seed, judges=plan.judges)
        folder.write(asked.name, result, problems)
        return samples, result

    def _note(self, settled: int) -> None:
        self.settled += 1


def _failed(service: str, error: grpc.aio.AioRpcError) -> OprimeError:
    kind = OprimeError if error.code() in FOR_GOOD else NotReadyError
    return kind(f"the {service} did not answer for a benchmark: {error.code().name} {error.details()}")
