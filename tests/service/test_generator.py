"""The generator over a real gRPC server, with tickets from a queue and weights from a store on disk."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from fakes import ManualClock
from oprime.adapters.memory_payloads import MemoryPayloads
from oprime.adapters.memory_queue import MemoryQueue
from oprime.adapters.prometheus_metrics import PrometheusMetrics
from oprime.adapters.store_weights import StoreWeights
from oprime.adapters.system_clock import SystemClock
from oprime.core.types import (
    ChatMessage,
    DroppedRollout,
    FinishReason,
    Rollout,
    SamplingSettings,
    Ticket,
    VerificationTask,
    WeightVersionSpan,
)
from oprime.lm.models import load_causal_lm
from oprime.lm.sampling import sample_response
from oprime.lm.tokenizers import load_tokenizer
from oprime.ports import LIVE, ROLLOUTS, TICKETS, VERDICTS, Committed, LedgerMove, Output
from oprime.runtime.consume import consume
from oprime.runtime.errors import QueueUnavailableError
from oprime.runtime.grpc_client import connect
from oprime.runtime.grpc_server import GrpcServer
from oprime.runtime.rollout_payloads import read_rollouts
from oprime.wire.codec import event_from_proto, ids_from_bytes, rollout_from_proto, ticket_to_proto, verification_task_from_proto
from oprime_generator.follow import WeightFollower
from oprime_generator.generate import GenerateGroup, GenerateRollouts
from oprime_generator.sampler import SampleAbortedError, SampledResponse, Sampler, SampleRequest, TokenDelta, response_text
from oprime_generator.servicer import GeneratorServicer
from oprime_generator.transformers_sampler import TransformersSampler
from oprime_proto.v1 import common_pb2, generator_pb2
from oprime_proto.v1.generator_pb2_grpc import GeneratorServiceStub, add_GeneratorServiceServicer_to_server
from tiny_policies import END, POSITIONS, full_logprobs, with_other_head, write_policy, write_tokenizer

SAMPLING = SamplingSettings(temperature=1.0, max_prompt_tokens=8, max_response_tokens=24)
MESSAGES = (ChatMessage(role="user", content="w5 w6 w7"),)
PROMPT = (5, 6, 7)


def a_ticket(
    group_id: int, *, seeds: tuple[int, ...] = (1, 2, 3), min_weight_version: int = 0, content: str = "w5 w6 w7", greedy: bool = False
) -> Ticket:
    return Ticket(
        group_id=group_id,
        messages=(ChatMessage(role="user", content=content),),
        material=f"task/{group_id}/written",
        sampling=SAMPLING,
        seeds=seeds,
        min_weight_version=min_weight_version,
        greedy_baseline=greedy,
    )


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two directories that differ in their output layer."""
    directories = [tmp_path_factory.mktemp(f"policy-{number}") for number in range(2)]
    write_policy(directories[0])
    with_other_head(write_policy(directories[1]), seed=1).save_pretrained(directories[1])
    return directories


class Service:
    """A running generator and the outside world it talks to."""

    def __init__(self, root: Path, policies: list[Path], sampler: Sampler, *, max_staleness: int = 1) -> None:
        self.root = root / "store"
        self.policies = policies
        self.clock = SystemClock()
        self.queue = MemoryQueue(self.clock)
        self.payloads = MemoryPayloads()
        self.store = StoreWeights(str(self.root), template=policies[0])
        self.sampler = sampler
        self.metrics = PrometheusMetrics()
        self.rollouts = GenerateRollouts(sampler, load_tokenizer(policies[0]), self.metrics)
        self.groups = GenerateGroup(self.queue, self.payloads, self.clock, self.rollouts, max_staleness=max_staleness)
        self.follower = WeightFollower(
            StoreWeights(str(self.root), template=policies[0]),
            sampler,
            self.queue,
            self.clock,
            self.metrics,
            generator_id="one",
            poll_s=0.02,
            turn_s=30,
            at_once=1,
            is_sampling=lambda: True,
            activated=self.groups.drop_stale,
        )
        self.stub: GeneratorServiceStub

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Service"]:
        stopping = asyncio.Event()
        await self.sampler.start()
        server = GrpcServer("127.0.0.1:0")
        servicer = GeneratorServicer(self.rollouts, self.follower, generator_id="one")
        server.add(add_GeneratorServiceServicer_to_server, servicer, "oprime_proto.v1.GeneratorService")
        port = await server.start()
        handle = partial(self.groups.handle, gate=self.follower)
        work = [
            asyncio.create_task(self.follower.run()),
            asyncio.create_task(
                consume(
                    self.queue,
                    TICKETS,
                    "one",
                    handle,
                    concurrency=4,
                    lease_s=30,
                    clock=self.clock,
                    stopping=stopping,
                    metrics=PrometheusMetrics(),
                )
            ),
        ]
        try:
            async with connect(f"127.0.0.1:{port}") as channel:
                self.stub = GeneratorServiceStub(channel)
                yield self
        finally:
            stopping.set()
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
            await server.stop(0)
            await self.sampler.close()

    def publish(self, version: int) -> None:
        self.store.publish_directory(version, self.policies[version % 2])

    async def issue(self, ticket: Ticket) -> None:
        await issue(self.queue, ticket)

    async def take(self, stream: str, count: int) -> list[bytes]:
        """Payloads of the next `count` entries."""
        payloads: list[bytes] = []
        async with asyncio.timeout(30):
            while len(payloads) < count:
                deliveries = await self.queue.receive(stream, "test", most=count - len(payloads), wait_s=0.1)
                assert all(delivery.key for delivery in deliveries)
                payloads += [delivery.payload for delivery in deliveries]
                await self.queue.acknowledge(deliveries)
        return payloads

    async def take_tasks(self, count: int) -> list[VerificationTask]:
        payloads = await self.take(ROLLOUTS, count)
        return [verification_task_from_proto(common_pb2.VerificationTask.FromString(payload)) for payload in payloads]

    async def take_rollouts(self, count: int) -> list[Rollout]:
        """The next rollouts, whole, without their texts."""
        return read_rollouts(self.payloads, [task.rollout for task in await self.take_tasks(count)])

    async def is_idle(self) -> None:
        """Wait until no ticket is waiting or held."""
        async with asyncio.timeout(30):
            while True:
                depth = await self.queue.depth(TICKETS)
                if depth.waiting + depth.pending == 0:
                    return
                await asyncio.sleep(0.01)

    async def version_is(self, version: int) -> None:
        await asyncio.wait_for(self.follower.wait_for(version), 30)

    async def stats(self) -> generator_pb2.StatsResponse:
        return await self.stub.Stats(generator_pb2.StatsRequest())

    async def stats_with_an_error(self) -> generator_pb2.StatsResponse:
        async with asyncio.timeout(30):
            while True:
                stats = await self.stats()
                if stats.follow_error:
                    return stats
                await asyncio.sleep(0.02)


async def issue(queue: MemoryQueue, ticket: Ticket) -> None:
    moves = [LedgerMove(rollout_id=name, state=LIVE) for name in ticket.rollout_ids]
    output = Output(stream=TICKETS, key=str(ticket.group_id), payload=ticket_to_proto(ticket).SerializeToString())
    await queue.commit(f"issue:{ticket.group_id}", outputs=[output], moves=moves)


@pytest.fixture
async def service(tmp_path: Path, policies: list[Path]) -> AsyncIterator[Service]:
    sampler = TransformersSampler(policies[0], version=0, max_prompt_tokens=8, max_response_tokens=24)
    async with Service(tmp_path, policies, sampler).running() as running:
        yield running


def generate_request(**changes: object) -> generator_pb2.GenerateRequest:
    fields: dict[str, object] = {
        "messages": [common_pb2.ChatMessage(role="user", content="w5 w6 w7")],
        "sampling": common_pb2.SamplingSettings(temperature=1.0, max_prompt_tokens=8, max_response_tokens=24),
        "seeds": [1, 2],
    }
    return generator_pb2.GenerateRequest(**(fields | changes))  # pyright: ignore[reportArgumentType]


def response_ids(message: common_pb2.Rollout) -> list[int]:
    return rollout_from_proto(message).trained_ids.tolist()


async def test_a_ticket_becomes_the_same_k_rollouts_as_in_a_plain_loop(service: Service, policies: list[Path]) -> None:
    await service.issue(a_ticket(4, seeds=(11, 12, 13)))
    tasks = await service.take_tasks(3)
    model, tokenizer = load_causal_lm(policies[0]), load_tokenizer(policies[0])
    assert [task.rollout.rollout_id for task in tasks] == ["4:0", "4:1", "4:2"]
    rollouts = read_rollouts(service.payloads, [task.rollout for task in tasks])
    texts = service.payloads.get_many([task.rollout.text for task in tasks])
    for task, rollout, text, seed in zip(tasks, rollouts, texts, (11, 12, 13), strict=True):
        expected = sample_response(model, PROMPT, temperature=1.0, max_tokens=24, seed=seed, end_ids=(2,))
        assert (rollout.seed, rollout.finish_reason, task.material) == (seed, expected.finish_reason, "task/4/written")
        assert rollout.prompt_ids.tolist() == list(PROMPT)
        assert rollout.trained_ids.tolist() == list(expected.response_ids)
        np.testing.assert_array_equal(rollout.behaviour_logprobs, np.array(expected.behaviour_logprobs, dtype=np.float32))
        assert [segment.weight_version for segment in rollout.trained_segments] == [0]
        assert text == response_text(tokenizer, expected.response_ids).encode()
    assert (await service.stats()).finished_rollouts == 3


async def test_a_ticket_that_comes_twice_counts_once(service: Service) -> None:
    ticket = a_ticket(4)
    payload = ticket_to_proto(ticket).SerializeToString()
    twice = [Output(stream=TICKETS, key="4", payload=payload) for _ in range(2)]
    await service.queue.commit("issue:4", outputs=twice, moves=[LedgerMove(rollout_id=name, state=LIVE) for name in ticket.rollout_ids])
    await service.is_idle()
    depth = await service.queue.depth(ROLLOUTS)
    assert depth.waiting == 3
    assert await service.queue.ledger_counts() == {"issued": 3, LIVE: 3}


async def names_passed_on(service: Service, queue: MemoryQueue) -> list[str]:
    """Payloads that the entries for the verifier name, sorted."""
    deliveries = await queue.receive(ROLLOUTS, "test", most=100, wait_s=0)
    tasks = [verification_task_from_proto(common_pb2.VerificationTask.FromString(delivery.payload)) for delivery in deliveries]
    assert [task.rollout.rollout_id for task in tasks] == ["4:0", "4:1", "4:2"]
    assert len(read_rollouts(service.payloads, [task.rollout for task in tasks])) == 3
    return sorted(name for task in tasks for name in task.rollout.payloads)


async def test_a_generator_that_repeats_a_group_in_vain_takes_its_own_payloads_away_and_no_others(service: Service) -> None:
    """Two generators work on one ticket: the one that commits first is the one whose payloads are read."""
    queue = MemoryQueue(ManualClock(), lease_s=1)
    slow, quick = (GenerateGroup(queue, service.payloads, service.clock, service.rollouts, max_staleness=1) for _ in range(2))
    await issue(queue, a_ticket(4))
    (delivery,) = await queue.receive(TICKETS, "slow", wait_s=0)
    await quick.handle(replace(delivery, attempt=2), service.follower)
    won = sorted(service.payloads.names())
    assert len(won) == 3 * 2
    await slow.handle(delivery, service.follower)
    assert sorted(service.payloads.names()) == won
    assert await names_passed_on(service, queue) == won


async def test_a_group_whose_ticket_was_set_aside_meanwhile_leaves_no_payloads(service: Service) -> None:
    queue = MemoryQueue(ManualClock(), lease_s=1)
    groups = GenerateGroup(queue, service.payloads, service.clock, service.rollouts, max_staleness=1)
    await issue(queue, a_ticket(4))
    (delivery,) = await queue.receive(TICKETS, "one", wait_s=0)
    await queue.dead_letter(delivery, reason="delivered too often")
    await groups.handle(delivery, service.follower)
    assert list(service.payloads.names()) == []
    assert (await queue.depth(ROLLOUTS)).waiting == 0


class SilentQueue(MemoryQueue):
    """Commits a generated group, and the first answer is lost."""

    silent = True

    async def commit(self, mark: str, **parts: Any) -> Committed:
        committed = await super().commit(mark, **parts)
        if mark.startswith("generate:") and self.silent:
            self.silent = False
            raise QueueUnavailableError("no answer came")
        return committed


async def test_a_lost_answer_never_takes_away_what_was_passed_on(service: Service) -> None:
    """The second try hears that the group counted before: by the first try, or by another generator."""
    queue = SilentQueue(ManualClock(), lease_s=1)
    ours, others = (GenerateGroup(queue, service.payloads, service.clock, service.rollouts, max_staleness=1) for _ in range(2))
    await issue(queue, a_ticket(4))
    (delivery,) = await queue.receive(TICKETS, "ours", wait_s=0)
    await ours.handle(delivery, service.follower)
    assert not queue.silent
    passed_on = await names_passed_on(service, queue)
    assert sorted(service.payloads.names()) == passed_on
    # Then one that is late: the answer that it lost named no winner, so its own payloads are left to the sweep as well.
    queue.silent = True
    await others.handle(replace(delivery, attempt=2), service.follower)
    assert set(service.payloads.names()) > set(passed_on)


async def test_a_greedy_baseline_comes_after_the_rollouts_and_depends_on_no_seed(service: Service, policies: list[Path]) -> None:
    await service.issue(a_ticket(4, greedy=True))
    await service.issue(a_ticket(5, seeds=(9,), greedy=True))
    await service.issue(a_ticket(6))
    rollouts = {rollout.rollout_id: rollout for rollout in await service.take_rollouts(4 + 2 + 3)}
    assert sorted(rollouts) == ["4:0", "4:1", "4:2", "4:3", "5:0", "5:1", "6:0", "6:1", "6:2"]
    greedy = rollouts["4:3"]
    assert greedy.trained_ids.tolist() == rollouts["5:1"].trained_ids.tolist()
    expected = sample_response(
        load_causal_lm(policies[0]), PROMPT, temperature=0.0, max_tokens=SAMPLING.max_response_tokens, seed=77, end_ids=(END,)
    )
    assert tuple(greedy.trained_ids.tolist()) == expected.response_ids
    # At temperature 0 the log-probs are those at temperature 1, which a PRM with the policy as its reference may read.
    assert greedy.behaviour_logprobs.tolist() == pytest.approx(full_logprobs(policies[0], PROMPT, expected.response_ids, 1.0), abs=1e-4)
    for index in range(3):
        assert rollouts[f"4:{index}"].trained_ids.tolist() == rollouts[f"6:{index}"].trained_ids.tolist()


async def test_a_ticket_waits_for_weights_that_are_new_enough(service: Service) -> None:
    await service.issue(a_ticket(1, min_weight_version=1))
    await service.issue(a_ticket(2))
    assert {task.rollout.group_id for task in await service.take_tasks(3)} == {2}
    service.publish(1)
    tasks = await service.take_tasks(3)
    assert {task.rollout.group_id for task in tasks} == {1}
    assert {(task.rollout.oldest_weight_version, task.rollout.newest_weight_version) for task in tasks} == {(1, 1)}


async def test_an_overlong_prompt_is_set_aside_with_its_lengths(service: Service) -> None:
    await service.issue(a_ticket(4, content=" ".join(["w5"] * 9)))
    await service.is_idle()
    (letter,) = await service.queue.dead_letters()
    assert "the prompt has 9 tokens, max_prompt_tokens is 8" in letter.reason
    assert letter.rollout_ids == ("4:0", "4:1", "4:2")


async def test_a_prompt_that_the_chat_template_trips_over_is_set_aside_and_the_next_one_sampled(
    tmp_path: Path, policies: list[Path]
) -> None:
    directory = tmp_path / "policy"
    shutil.copytree(policies[0], directory)
    # Fails with an error of Python's, not of the template's own, on prompts of one word.
    write_tokenizer(directory, template="{{ 'w5 ' * (6 // (messages[0]['content'].split() | length - 1)) }}")
    sampler = TransformersSampler(directory, version=0, max_prompt_tokens=8, max_response_tokens=24)
    async with Service(tmp_path, [directory, policies[1]], sampler).running() as service:
        await service.issue(a_ticket(4, content="w5"))
        await service.issue(a_ticket(5))
        assert {task.rollout.group_id for task in await service.take_tasks(3)} == {5}
        await service.is_idle()
        (letter,) = await service.queue.dead_letters()
    assert "the chat template refuses a conversation of roles user: ZeroDivisionError" in letter.reason
    assert letter.rollout_ids == ("4:0", "4:1", "4:2")


async def test_an_unreadable_ticket_is_set_aside(service: Service) -> None:
    await service.queue.commit("issue:x", outputs=[Output(stream=TICKETS, key="x", payload=b"\xff\xff\xff")])
    await service.is_idle()
    (letter,) = await service.queue.dead_letters()
    assert "is no readable Ticket" in letter.reason


async def test_it_moves_to_published_versions_by_itself(service: Service, policies: list[Path]) -> None:
    service.publish(1)
    await service.version_is(1)
    answer = await service.stub.Generate(generate_request())
    for rollout in (rollout_from_proto(message) for message in answer.rollouts):
        expected = full_logprobs(policies[1], PROMPT, tuple(rollout.trained_ids.tolist()), 1.0)
        assert rollout.behaviour_logprobs.tolist() == pytest.approx(expected, abs=1e-4)
        assert [segment.weight_version for segment in rollout.trained_segments] == [1]
    assert (await service.stats()).weight_version == 1


@pytest.mark.parametrize("harm", ["flipped bit", "missing shard"])
async def test_a_spoiled_version_is_reported_and_the_old_one_serves_on(service: Service, harm: str) -> None:
    staging = StoreWeights(str(service.root.parent / "elsewhere"), template=service.policies[0])
    directory = staging.publish_directory(1, service.policies[1]).directory
    shard = directory / "model.safetensors"
    if harm == "flipped bit":
        data = bytearray(shard.read_bytes())
        data[-1] ^= 1
        shard.unlink()  # version 1 may be a link to the policy itself
        shard.write_bytes(bytes(data))
    else:
        shard.unlink()
    service.root.mkdir(parents=True, exist_ok=True)
    directory.rename(service.root / directory.name)
    stats = await service.stats_with_an_error()
    assert stats.weight_version == 0
    assert ("has checksum" if harm == "flipped bit" else "file model.safetensors is missing") in stats.follow_error
    answer = await service.stub.Generate(generate_request())
    assert [segment.weight_version for rollout in answer.rollouts for segment in rollout.segments if segment.trained] == [0, 0]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await service.stub.Prepare(generator_pb2.PrepareRequest(weight_version=1))
    assert refused.value.code() is grpc.StatusCode.DATA_LOSS


async def test_prepare_and_activate_by_hand(service: Service) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as missing:
        await service.stub.Prepare(generator_pb2.PrepareRequest(weight_version=9))
    assert missing.value.code() is grpc.StatusCode.NOT_FOUND
    service.publish(1)
    prepared = await service.stub.Prepare(generator_pb2.PrepareRequest(weight_version=1))
    assert (prepared.weight_version, prepared.bytes) == (1, service.store.fetch(1).bytes)
    activated = await service.stub.Activate(generator_pb2.ActivateRequest(weight_version=1))
    assert activated.weight_version == 1


async def test_generate_answers_in_order_of_seeds_and_greedily_at_temperature_0(service: Service) -> None:
    sampled = await service.stub.Generate(generate_request(seeds=[1, 2, 1]))
    ids = [response_ids(rollout) for rollout in sampled.rollouts]
    assert [rollout.index for rollout in sampled.rollouts] == [0, 1, 2]
    assert ids[0] == ids[2] != ids[1]
    greedy_settings = common_pb2.SamplingSettings(temperature=0.0, max_prompt_tokens=8, max_response_tokens=5)
    greedy = await service.stub.Generate(generate_request(sampling=greedy_settings))
    first, second = (response_ids(rollout) for rollout in greedy.rollouts)
    assert first == second


async def test_generate_refuses_what_cannot_be_sampled(service: Service) -> None:
    too_long = common_pb2.SamplingSettings(temperature=1.0, max_prompt_tokens=8, max_response_tokens=POSITIONS)
    for request in (generate_request(sampling=too_long), generate_request(messages=[]), generate_request(sampling=None)):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await service.stub.Generate(request)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_stream_brings_each_rollouts_tokens_and_then_the_rollout(service: Service) -> None:
    request = generate_request()
    streamed = generator_pb2.GenerateStreamRequest(messages=request.messages, sampling=request.sampling, seeds=request.seeds)
    parts = [part async for part in service.stub.GenerateStream(streamed)]
    whole = await service.stub.Generate(request)
    for index, rollout in enumerate(whole.rollouts):
        deltas = [part.delta for part in parts if part.HasField("delta") and part.delta.index == index]
        (finished,) = [part.finished for part in parts if part.HasField("finished") and part.finished.index == index]
        streamed_ids = ids_from_bytes(b"".join(delta.response_ids for delta in deltas)).tolist()
        assert streamed_ids == response_ids(finished) == response_ids(rollout)
        assert "".join(delta.text for delta in deltas) == finished.text


async def test_a_callers_deadline_frees_the_sampler(service: Service) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as late:
        await service.stub.Generate(generate_request(min_weight_version=5), timeout=0.1)
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert (await service.stub.Generate(generate_request())).rollouts
    assert (await service.stats()).running_rollouts == 0


class PatientSampler:
    """A Sampler whose responses each have one token of the version they began with, and end when a test says so."""

    backend = "patient"
    max_model_tokens = 100

    def __init__(self) -> None:
        self.weight_version = 0
        self.begun: dict[str, int] = {}
        self.endings: dict[str, asyncio.Future[None]] = {}
        self.cancelled: list[str] = []

    async def sample(self, request: SampleRequest) -> SampledResponse:
        name = request.request_id
        version = self.begun[name] = self.weight_version
        ending = self.endings[name] = asyncio.get_running_loop().create_future()
        try:
            await ending
        except asyncio.CancelledError:
            self.cancelled.append(name)
            raise
        finally:
            del self.begun[name]
        spans = (WeightVersionSpan(start=0, end=1, version=version),)
        return SampledResponse(response_ids=(2,), behaviour_logprobs=(-1.0,), spans=spans, finish_reason=FinishReason.STOP, text="")

    async def stream(self, request: SampleRequest) -> AsyncIterator[TokenDelta | SampledResponse]:
        yield await self.sample(request)

    def oldest_version(self, request_id: str) -> int | None:
        return self.begun.get(request_id)

    async def load(self, directory: Path, version: int) -> None:
        self.weight_version = version

    async def abort(self, request_ids: Collection[str]) -> None:
        for name in request_ids:
            self.endings[name].set_exception(SampleAbortedError(name))

    async def start(self) -> None: ...

    async def watch(self) -> None: ...

    async def close(self) -> None: ...


async def has_begun(sampler: PatientSampler, count: int) -> None:
    async with asyncio.timeout(30):
        while True:
            if len(sampler.begun) >= count:
                return
            await asyncio.sleep(0.01)


async def test_a_group_that_became_too_old_is_given_up_and_the_ledger_says_so(tmp_path: Path, policies: list[Path]) -> None:
    sampler = PatientSampler()
    async with Service(tmp_path, policies, sampler, max_staleness=1).running() as service:
        await service.issue(a_ticket(4))
        await has_begun(sampler, 3)
        next(iter(sampler.endings.values())).set_result(None)
        service.publish(1)
        await service.version_is(1)
        assert (await service.stats()).running_rollouts == 2
        # At step 3, which starts from version 2, tokens of version 0 have staleness 2.
        service.publish(2)
        events = [event_from_proto(common_pb2.RolloutEvent.FromString(payload)) for payload in await service.take(VERDICTS, 3)]
        # The first response had come to its end, after one token.
        lengths = (1, 0, 0)
        assert events == [
            DroppedRollout(group_id=4, index=index, reason="stale", response_tokens=tokens) for index, tokens in enumerate(lengths)
        ]
        assert await service.queue.ledger_counts() == {"issued": 3, LIVE: 0, "dropped:stale": 3}
        assert (await service.queue.depth(ROLLOUTS)).waiting == 0
        assert len(sampler.cancelled) == 2
        await service.is_idle()


async def test_a_group_is_as_old_as_its_greedy_baseline_and_is_given_up_with_it(tmp_path: Path, policies: list[Path]) -> None:
    sampler = PatientSampler()
    async with Service(tmp_path, policies, sampler, max_staleness=1).running() as service:
        await service.issue(a_ticket(4, greedy=True))
        await has_begun(sampler, 4)
        for name, ending in list(sampler.endings.items()):
            if "greedy" not in name:
                ending.set_result(None)
        service.publish(1)
        await service.version_is(1)
        service.publish(2)
        events = [event_from_proto(common_pb2.RolloutEvent.FromString(payload)) for payload in await service.take(VERDICTS, 4)]
        # All but the greedy response had come to their end, after one token each.
        lengths = (1, 1, 1, 0)
        assert events == [
            DroppedRollout(group_id=4, index=index, reason="stale", response_tokens=tokens) for index, tokens in enumerate(lengths)
        ]
        assert await service.queue.ledger_counts() == {"issued": 4, LIVE: 0, "dropped:stale": 4}
        assert len(sampler.cancelled) == 1
        await service.is_idle()


async def test_a_group_within_the_bound_is_finished(tmp_path: Path, policies: list[Path]) -> None:
    sampler = PatientSampler()
    async with Service(tmp_path, policies, sampler, max_staleness=1).running() as service:
        service.publish(1)
        await service.version_is(1)
        await service.issue(a_ticket(4))
        await has_begun(sampler, 3)
        service.publish(2)
        await service.version_is(2)
        for ending in sampler.endings.values():
            ending.set_result(None)
        assert [task.rollout.oldest_weight_version for task in await service.take_tasks(3)] == [1, 1, 1]
        assert sampler.cancelled == []


async def test_a_failed_response_leaves_the_ticket_to_its_lease(tmp_path: Path, policies: list[Path]) -> None:
    sampler = PatientSampler()
    clock = ManualClock()
    service = Service(tmp_path, policies, sampler)
    queue = service.queue = MemoryQueue(clock, lease_s=30)
    groups = GenerateGroup(queue, service.payloads, clock, service.rollouts, max_staleness=1)
    await service.issue(a_ticket(4))
    (delivery,) = await queue.receive(TICKETS, "one", wait_s=0)
    handling = asyncio.create_task(groups.handle(delivery, service.follower))
    await has_begun(sampler, 3)
    await sampler.abort([next(iter(sampler.endings))])
    with pytest.raises(SampleAbortedError):
        await handling
    assert len(sampler.cancelled) == 2
    assert (await queue.depth(TICKETS)).pending == 1
    clock.advance(31)
    (again,) = await queue.receive(TICKETS, "two", wait_s=0)
    assert again.attempt == 2
