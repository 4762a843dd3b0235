"""Benchmarks of a run, asked of a real generator service and a real verifier service over gRPC."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from evaluation_world import problem
from oprime.core.verification import VerificationRequest
from oprime.evaluation.benchmark import Decoding
from oprime.evaluation.load import ProblemSet
from oprime.evaluation.of_run import benchmarks_of_run, later_evaluations
from oprime.runtime.errors import NotReadyError, OprimeError, SettingsError, UnusableInputError
from oprime.runtime.grpc_client import connect
from oprime.runtime.grpc_server import GrpcServer
from oprime.runtime.settings import RunSection, SamplingSection
from oprime.wire.verification import outcome_to_proto
from oprime_coordinator.benchmarks import Benchmarks
from oprime_proto.v1 import common_pb2, generator_pb2, generator_pb2_grpc, verifier_pb2, verifier_pb2_grpc
from oprime_verifier.exact_verifier import verify_exact


class Parrot(generator_pb2_grpc.GeneratorServiceServicer):
    """Answers with the prompt; every second version it is wrong."""

    def __init__(self) -> None:
        self.asked: list[generator_pb2.GenerateRequest] = []
        self.error: Exception | None = None

    async def Generate(self, request: generator_pb2.GenerateRequest, context: object) -> generator_pb2.GenerateResponse:
        if self.error is not None:
            raise self.error
        self.asked.append(request)
        prompt = request.messages[-1].content
        if prompt == "long":
            raise UnusableInputError("the prompt has 99 tokens")
        segments = [common_pb2.Segment(trained=True, weight_version=request.min_weight_version + 1, token_ids=b"\0" * 12)]
        text = prompt if request.min_weight_version % 2 == 0 else "wrong"
        reason = common_pb2.FINISH_REASON_LENGTH
        return generator_pb2.GenerateResponse(rollouts=[common_pb2.Rollout(text=text, segments=segments, finish_reason=reason)])


class Comparison(verifier_pb2_grpc.VerifierServiceServicer):
    async def VerifyBatch(self, request: verifier_pb2.VerifyBatchRequest, context: object) -> verifier_pb2.VerifyBatchResponse:
        outcomes = [
            verify_exact(VerificationRequest(kind=one.kind, response=one.response, golds=tuple(one.golds))) for one in request.requests
        ]
        return verifier_pb2.VerifyBatchResponse(responses=[outcome_to_proto(outcome) for outcome in outcomes])


class World:
    def __init__(self, folder: Path, channel: grpc.aio.Channel, parrot: Parrot) -> None:
        self.parrot = parrot
        self.folder = folder
        self._channel = channel

    def benchmarks(self, *names: str, samples: int = 1) -> Benchmarks:
        problems = [problem(name, name, index=index) for index, name in enumerate(names)]
        asked = ProblemSet(
            name="echo",
            title="Echo",
            version=1,
            location="echo.jsonl",
            file_sha256="",
            problems=problems,
            decoding=Decoding(temperature=0.5, top_p=0.75, max_tokens=8),
            samples=samples,
        )
        return Benchmarks(
            [asked],
            run_name="demo",
            run_folder=self.folder,
            seed=3,
            max_prompt_tokens=16,
            generator=self._channel,
            verifier=self._channel,
        )


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    parrot = Parrot()
    server = GrpcServer("127.0.0.1:0")
    server.add(generator_pb2_grpc.add_GeneratorServiceServicer_to_server, parrot, "oprime_proto.v1.GeneratorService")
    server.add(verifier_pb2_grpc.add_VerifierServiceServicer_to_server, Comparison(), "oprime_proto.v1.VerifierService")
    channel = connect(f"127.0.0.1:{await server.start()}")
    await channel.channel_ready()
    yield World(tmp_path, channel, parrot)
    await channel.close()
    await server.stop(0)


async def rows(benchmarks: Benchmarks, step: int, **options: Any) -> list[dict[str, Any]]:
    return [row async for row in benchmarks.evaluate(step, **options)]


async def test_a_benchmark_is_sampled_with_the_weights_of_its_step_and_kept_as_oprime_eval_keeps_it(world: World) -> None:
    (row,) = await rows(world.benchmarks("one", "long", samples=2), 4)
    assert (row["benchmark"], row["accuracy"], row["problems"], row["samples"], row["unjudged"]) == ("echo", 0.5, 2, 2, 2)
    assert (row["oldest_weight_version"], row["newest_weight_version"]) == (5, 5)
    asked = [request for request in world.parrot.asked if request.messages[-1].content == "one"]
    assert {(one.min_weight_version, one.sampling.temperature, one.sampling.top_p) for one in asked} == {(4, 0.5, 0.75)}
    assert len({one.seeds[0] for one in asked}) == 2
    folder = world.folder / "evaluations" / "training-000004"
    result = json.loads((folder / "echo" / "result.json").read_text())
    assert result["target"] == {"kind": "run", "name": "demo@4", "run": "demo", "step": 4, "during_training": True}
    assert result["samples"]["cut"] == 2
    assert len((folder / "echo" / "samples.jsonl").read_text().splitlines()) == 4


async def test_what_was_sampled_is_not_sampled_again_and_what_is_done_is_passed_over(world: World) -> None:
    await rows(world.benchmarks("one"), 4)
    again = await rows(world.benchmarks("one"), 4)
    assert (again[0]["accuracy"], len(world.parrot.asked)) == (1.0, 1)
    assert await rows(world.benchmarks("one"), 4, but=("echo",)) == []
    (later,) = await rows(world.benchmarks("one"), 5)
    assert (later["accuracy"], len(world.parrot.asked)) == (0.0, 2)


async def test_a_service_that_is_away_means_later_and_a_refusal_means_never(world: World) -> None:
    world.parrot.error = NotReadyError("starting")
    with pytest.raises(NotReadyError, match="starting"):
        await rows(world.benchmarks("one"), 1)
    world.parrot.error = SettingsError("no such thing")
    with pytest.raises(OprimeError, match="no such thing") as caught:
        await rows(world.benchmarks("one"), 1)
    assert not isinstance(caught.value, NotReadyError)


async def test_a_run_that_goes_back_forgets_what_later_weights_were_worth(world: World) -> None:
    benchmarks = world.benchmarks("one")
    for step in (4, 6):
        await rows(benchmarks, step)
    (world.folder / "evaluations" / "step-000006").mkdir()
    (world.folder / "evaluations" / "mine").mkdir()
    assert [path.name for path in later_evaluations(world.folder, 4)] == ["step-000006", "training-000006"]
    benchmarks.forget_after(4)
    assert sorted(path.name for path in (world.folder / "evaluations").iterdir()) == ["mine", "training-000004"]


def run_section(**options: Any) -> RunSection:
    return RunSection(name="demo", steps=10, **options)


def test_settings_name_benchmarks_and_files_within_the_runs_limits(tmp_path: Path) -> None:
    (tmp_path / "amc.jsonl").write_text(json.dumps({"id": 1, "problem": "1 + 1?", "answer": 2.0}) + "\n")
    mine = tmp_path / "mine.jsonl"
    mine.write_text(json.dumps({"question": "2 + 2?", "answer": "4"}) + "\n")
    run = run_section(evaluate_on=("amc", str(mine)), evaluate_on_data=(str(tmp_path),), evaluate_on_samples=4)
    amc, own = benchmarks_of_run(run, SamplingSection(max_response_tokens=100))
    assert (amc.name, own.name, amc.samples) == ("amc", "mine", 4)
    assert amc.decoding == Decoding(temperature=0.3, top_p=0.95, max_tokens=100)
    (greedy,) = benchmarks_of_run(run_section(evaluate_on=(str(mine),)), SamplingSection())
    assert (greedy.decoding.temperature, greedy.decoding.max_tokens) == (0.0, 3072)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("amc5",), r"run.evaluate_on amc5: no such benchmark \(did you mean amc\?\)"),
        (("amc",), "amc: none of amc.jsonl"),
        (("none.jsonl",), "no such file"),
    ],
)
def test_wrong_settings_are_refused_at_the_start(names: tuple[str, ...], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        benchmarks_of_run(run_section(evaluate_on=names), SamplingSection())


def test_a_name_twice_is_refused(tmp_path: Path) -> None:
    mine = tmp_path / "mine.jsonl"
    mine.write_text(json.dumps({"question": "2 + 2?", "answer": "4"}) + "\n")
    with pytest.raises(SettingsError, match="names mine twice"):
        benchmarks_of_run(run_section(evaluate_on=(str(mine), str(mine))), SamplingSection())
