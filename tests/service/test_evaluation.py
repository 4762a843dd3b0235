"""Held-out accuracy, asked for over gRPC."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import grpc
import pytest

from oprime.core.types import ChatMessage, SamplingSettings, Task
from oprime.core.verification import Outcome, Verdict, scored, unscored
from oprime.runtime.errors import NotReadyError, OprimeError, UnusableInputError
from oprime.runtime.grpc_client import connect
from oprime.runtime.grpc_server import GrpcServer
from oprime.wire.verification import outcome_to_proto
from oprime_coordinator.evaluation import Evaluator
from oprime_proto.v1 import common_pb2, generator_pb2_grpc, verification_pb2, verifier_pb2_grpc
from oprime_proto.v1 import generator_pb2 as generator_messages
from oprime_proto.v1 import verifier_pb2 as verifier_messages


class Parrot(generator_pb2_grpc.GeneratorServiceServicer):
    """Answers greedily with the prompt, and at a temperature with the prompt for every second answer only."""

    error: Exception | None = None

    async def Generate(self, request: generator_messages.GenerateRequest, context: object) -> generator_messages.GenerateResponse:
        if self.error is not None:
            raise self.error
        prompt = request.messages[-1].content
        segment = common_pb2.Segment(trained=True, weight_version=request.min_weight_version)
        texts = [prompt if request.sampling.temperature == 0 or index % 2 == 0 else "wrong" for index in range(len(request.seeds))]
        return generator_messages.GenerateResponse(rollouts=[common_pb2.Rollout(text=text, segments=[segment]) for text in texts])


class Comparison(verifier_pb2_grpc.VerifierServiceServicer):
    """Right if equal; cannot judge the ground truth `unknown`."""

    async def VerifyBatch(self, request: verifier_messages.VerifyBatchRequest, context: object) -> verifier_messages.VerifyBatchResponse:
        return verifier_messages.VerifyBatchResponse(responses=[outcome_to_proto(_outcome(one)) for one in request.requests])


def _outcome(request: verification_pb2.VerifyRequest) -> Outcome:
    (gold,) = request.golds
    return unscored(Verdict.UNDECIDED, "unknown") if gold == "unknown" else scored(float(request.response == gold))


@dataclass
class World:
    parrot: Parrot = field(default_factory=Parrot)
    generator: grpc.aio.Channel | None = None
    verifier: grpc.aio.Channel | None = None

    def evaluator(self, *ground_truths: str, answers: int = 2, shown: int = 0) -> Evaluator:
        problems = [
            Task(messages=(ChatMessage(role="user", content="8"),), verifier="same", ground_truth=truth, data_source="test")
            for truth in ground_truths
        ]
        sampling = SamplingSettings(temperature=1.0, max_prompt_tokens=8, max_response_tokens=8)
        assert self.generator is not None
        assert self.verifier is not None
        return Evaluator(
            problems,
            sampling,
            answers_per_problem=answers,
            run_seed=0,
            generator=self.generator,
            verifier=self.verifier,
            shown_problems=shown,
        )


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    server = GrpcServer("127.0.0.1:0")
    server.add(generator_pb2_grpc.add_GeneratorServiceServicer_to_server, world.parrot, "oprime_proto.v1.GeneratorService")
    server.add(verifier_pb2_grpc.add_VerifierServiceServicer_to_server, Comparison(), "oprime_proto.v1.VerifierService")
    port = await server.start()
    world.generator = world.verifier = connect(f"127.0.0.1:{port}")
    await world.generator.channel_ready()
    yield world
    await world.generator.close()
    await server.stop(0)


async def test_greedy_and_sampled_answers_are_counted_apart(world: World) -> None:
    # Of two problems the parrot solves one: greedily always, and with every second of its sampled answers.
    evaluation = await world.evaluator("8", "9").evaluate(7)
    assert (evaluation.heldout_greedy_accuracy, evaluation.heldout_accuracy) == (0.5, 0.25)
    assert (evaluation.problems, evaluation.answers) == (2, 4)
    assert (evaluation.oldest_weight_version, evaluation.newest_weight_version) == (7, 7)


async def test_an_answer_that_cannot_be_judged_is_left_out_and_counted(world: World) -> None:
    evaluation = await world.evaluator("8", "unknown").evaluate(1)
    assert evaluation.heldout_greedy_accuracy == 1.0
    assert evaluation.unverified == 3


async def test_without_held_out_tasks_there_is_nothing_to_ask(world: World) -> None:
    assert not world.evaluator().has_problems


async def test_a_service_that_is_away_means_later_and_a_refusal_means_never(world: World) -> None:
    world.parrot.error = NotReadyError("starting")
    with pytest.raises(NotReadyError, match="starting"):
        await world.evaluator("8").evaluate(1)
    world.parrot.error = UnusableInputError("the prompt has 99 tokens")
    with pytest.raises(OprimeError, match="99 tokens") as caught:
        await world.evaluator("8").evaluate(1)
    assert not isinstance(caught.value, NotReadyError)


async def test_the_first_problems_get_a_row_each_which_is_no_number(world: World) -> None:
    evaluation = await world.evaluator("8", "unknown", "9", answers=3, shown=2).evaluate(1)
    assert evaluation.table == (
        {"problem": "8", "greedy response": "8", "greedy score": 1.0, "sampled response": "8", "sampled score": 1.0},
        {"problem": "8", "greedy response": "8", "greedy score": None, "sampled response": "8", "sampled score": None},
    )
    assert "table" not in evaluation.numbers()
