"""The verifier's RPCs and its queue worker, on real worker processes."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from oprime.adapters.memory_queue import MemoryQueue
from oprime.adapters.prometheus_metrics import PrometheusMetrics
from oprime.adapters.system_clock import SystemClock
from oprime.core.types import (
    DroppedRollout,
    FinishReason,
    Rollout,
    VerificationTask,
    VerifiedRollout,
    WeightVersionSpan,
)
from oprime.core.verification import Outcome, Verdict, VerificationRequest, correct
from oprime.ports import LIVE, ROLLOUTS, VERDICTS, LedgerMove, Output
from oprime.runtime.consume import consume
from oprime.runtime.errors import NotReadyError
from oprime.runtime.grpc_client import connect
from oprime.runtime.grpc_server import GrpcServer
from oprime.wire.codec import event_from_proto, verification_task_to_proto
from oprime_proto.v1 import common_pb2, verification_pb2, verifier_pb2
from oprime_proto.v1.verifier_pb2_grpc import VerifierServiceStub, add_VerifierServiceServicer_to_server
from oprime_verifier.config import VerifierSection
from oprime_verifier.external.settings import PluginSection
from oprime_verifier.offer import Offer
from oprime_verifier.sandbox_health import SandboxHealth
from oprime_verifier.servicer import VerifierServicer
from oprime_verifier.status import status_of, watch_health
from oprime_verifier.verify import VerifyRollouts

PLUGINS = "service.verifier_plugins"
WAIT_S = 60.0
T = TypeVar("T")
SERVICE = "oprime_proto.v1.VerifierService"


class NoMetrics:
    """Metrics that nobody reads."""

    def count(self, name: str, amount: float = 1, **labels: str) -> None: ...

    def gauge(self, name: str, value: float, **labels: str) -> None: ...

    def observe(self, name: str, value: float, **labels: str) -> None: ...


@asynccontextmanager
async def running(*names: str, workers: int = 1, **settings: Any) -> AsyncIterator[Offer]:
    """The built-in verifiers and plug-ins of `verifier_plugins`."""
    section = VerifierSection(plugins={name: f"{PLUGINS}:{name}" for name in names}, workers=workers, deadline_s=WAIT_S, **settings)
    offer = Offer(section)
    await offer.start()
    try:
        yield offer
    finally:
        await offer.close()


def servicer_of(offer: Offer, *, strict: bool = False) -> VerifierServicer:
    return VerifierServicer(offer.dispatcher, SandboxHealth(offer.pool, NoMetrics(), strict=strict), concurrency=2, deadline_s=WAIT_S)


@asynccontextmanager
async def serving(offer: Offer) -> AsyncIterator[VerifierServiceStub]:
    server = GrpcServer("127.0.0.1:0")
    server.add(add_VerifierServiceServicer_to_server, servicer_of(offer), SERVICE)
    port = await server.start()
    await server.set_serving(True)
    channel = connect(f"127.0.0.1:{port}")
    try:
        yield VerifierServiceStub(channel)
    finally:
        await channel.close()
        await server.stop(0)


def request(kind: str, response: str, gold: str, request_id: str = "") -> verification_pb2.VerifyRequest:
    return verification_pb2.VerifyRequest(kind=kind, response=response, golds=[gold], request_id=request_id)


def rollout(index: int, text: str, group_id: int = 7) -> Rollout:
    return Rollout(
        group_id=group_id,
        index=index,
        seed=index,
        prompt_ids=np.array([1, 2], dtype=np.int32),
        response_ids=np.array([3, 4, 5], dtype=np.int32),
        text=text,
        behaviour_logprobs=np.array([-0.5, -0.25, -0.125], dtype=np.float32),
        spans=(WeightVersionSpan(start=0, end=3, version=0),),
        finish_reason=FinishReason.STOP,
    )


def task(index: int, text: str, verifier: str = "chain", ground_truth: str = "8") -> VerificationTask:
    return VerificationTask(
        rollout=rollout(index, text), request=VerificationRequest(kind=verifier, response=text, golds=(ground_truth,), data_source="chain")
    )


async def send(queue: MemoryQueue, tasks: Sequence[VerificationTask]) -> None:
    for item in tasks:
        name = item.rollout.rollout_id
        await queue.commit(
            f"generate:{name}",
            outputs=(Output(stream=ROLLOUTS, key=name, payload=verification_task_to_proto(item).SerializeToString()),),
            moves=(LedgerMove(rollout_id=name, state=LIVE),),
        )


async def events(queue: MemoryQueue, count: int) -> dict[str, VerifiedRollout | DroppedRollout]:
    found: dict[str, VerifiedRollout | DroppedRollout] = {}
    async with asyncio.timeout(WAIT_S):
        while len(found) < count:
            for delivery in await queue.receive(VERDICTS, "coordinator", most=count, wait_s=0.1):
                assert delivery.key not in found
                found[delivery.key] = event_from_proto(common_pb2.RolloutEvent.FromString(delivery.payload))
                await queue.acknowledge([delivery])
    return found


async def first(look: Callable[[], Awaitable[T]]) -> T:
    """Look until there is something."""
    async with asyncio.timeout(WAIT_S):
        while not (found := await look()):  # noqa: ASYNC110 - the queue offers no event
            await asyncio.sleep(0.01)
    return found


@asynccontextmanager
async def consuming(queue: MemoryQueue, handler: VerifyRollouts) -> AsyncIterator[None]:
    stopping = asyncio.Event()
    worker = asyncio.create_task(
        consume(
            queue,
            ROLLOUTS,
            "verifier-1",
            handler,
            concurrency=4,
            lease_s=30.0,
            clock=SystemClock(),
            stopping=stopping,
            metrics=PrometheusMetrics(),
        )
    )
    try:
        yield
    finally:
        stopping.set()
        await worker


async def test_verify_answers_with_a_verdict_and_says_who_judged() -> None:
    async with running() as offer, serving(offer) as stub:
        answer = await stub.Verify(request("math", "\\boxed{4}", "4", request_id="a-7"), timeout=WAIT_S)
        assert (answer.verdict, answer.score, answer.request_id) == (verification_pb2.VERDICT_CORRECT, 1.0, "a-7")
        assert (answer.extracted, answer.verifier.name) == ("4", "math")
        assert len(answer.verifier.config_hash) == 16
        assert answer.timings["total"] > 0


async def test_options_travel_typed_and_a_missing_score_stays_missing() -> None:
    async with running() as offer, serving(offer) as stub:
        bare = request("math", "4", "4")
        bare.math.bare = True
        assert (await stub.Verify(bare, timeout=WAIT_S)).verdict == verification_pb2.VERDICT_CORRECT
        bad = await stub.Verify(request("math", "\\boxed{4}", ""), timeout=WAIT_S)
        assert bad.verdict == verification_pb2.VERDICT_BAD_TASK
        assert not bad.HasField("score")


async def test_a_code_task_runs_in_the_sandbox_and_reports_each_test() -> None:
    tests = json.dumps({"inputs": ["1 2\n", "3 4\n"], "outputs": ["3\n", "7\n"]})
    async with running() as offer, serving(offer) as stub:
        asked = verification_pb2.VerifyRequest(kind="code", response="```python\nprint(sum(map(int, input().split())))\n```", tests=tests)
        answer = await stub.Verify(asked, timeout=WAIT_S)
        assert (answer.verdict, answer.score) == (verification_pb2.VERDICT_CORRECT, 1.0)
        assert sorted(test.index for test in answer.tests) == [0, 1]
        assert answer.verifier.sandbox_profile


async def test_a_batch_keeps_its_order_and_one_failure_stays_alone() -> None:
    async with running("raises", workers=2) as offer, serving(offer) as stub:
        requests = [request("chain", f"#{digit}", "3") for digit in range(9)]
        requests[5] = request("raises", "r", "g")
        requests[6] = request("math", "<think>still thinking \\boxed{3}", "3")
        answer = await stub.VerifyBatch(verifier_pb2.VerifyBatchRequest(requests=requests), timeout=WAIT_S)
        assert [item.score if item.HasField("score") else None for item in answer.responses] == [0, 0, 0, 1, 0, None, 0, 0, 0]
        assert answer.responses[5].verdict == verification_pb2.VERDICT_INFRA_ERROR
        assert answer.responses[6].verdict == verification_pb2.VERDICT_NO_ANSWER


async def test_a_stream_answers_what_is_ready_first(tmp_path: Path) -> None:
    async with running("wait_for_file") as offer, serving(offer) as stub:

        async def requests() -> AsyncIterator[verification_pb2.VerifyRequest]:
            yield request("wait_for_file", "", str(tmp_path), request_id="slow")
            yield request("chain", "#1", "1", request_id="quick")

        order: list[str] = []
        async for answer in stub.VerifyStream(requests(), timeout=WAIT_S):
            order.append(answer.request_id)
            (tmp_path / "released").touch()
        assert order == ["quick", "slow"]


async def test_describe_names_every_verifier_its_options_and_what_is_broken() -> None:
    plugins: dict[str, str | PluginSection] = {"length": f"{PLUGINS}:length", "broken": "nowhere_to_be_found:judge"}
    offer = Offer(VerifierSection(plugins=plugins))
    await offer.start()
    try:
        async with serving(offer) as stub:
            answer = await stub.Describe(verifier_pb2.DescribeRequest(), timeout=WAIT_S)
    finally:
        await offer.close()
    described = {item.name: item for item in answer.verifiers}
    assert set(described) == {"math", "code", "exact", "chain", "length", "broken"}
    assert described["length"].description == "Share of the wanted number of characters."
    assert "bare" in described["math"].options_schema["properties"]
    assert "nowhere_to_be_found" in described["broken"].problem
    assert all(item.version for item in answer.verifiers if item.name not in plugins)


async def test_health_reports_every_layer_and_probe_of_the_sandbox() -> None:
    async with running() as offer:
        health = SandboxHealth(offer.pool, NoMetrics(), strict=True)
        with pytest.raises(NotReadyError, match="strict refuses to judge"):
            health.require()
        await health.check()
        report = health.to_proto()
        assert report.serving == (health.problem == "")
    assert report.sandbox.checked_at > 0
    assert {"landlock", "seccomp", "rlimits"} <= {layer.name for layer in report.sandbox.layers}
    assert len(report.sandbox.probes) >= 22
    open_ways = [probe.name for probe in report.sandbox.probes if not probe.blocked]
    assert all(name in health.problem for name in open_ways)


@pytest.mark.parametrize("batch", [False, True])
async def test_an_unknown_verifier_is_an_invalid_argument(batch: bool) -> None:
    async with running() as offer, serving(offer) as stub:
        unknown = request("maths", "a", "b")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await (
                stub.VerifyBatch(verifier_pb2.VerifyBatchRequest(requests=[request("chain", "#1", "1"), unknown]), timeout=WAIT_S)
                if batch
                else stub.Verify(unknown, timeout=WAIT_S)
            )
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "offers chain, code, exact, math" in (refused.value.details() or "")


async def test_before_a_worker_is_ready_the_service_is_unavailable() -> None:
    async with serving(Offer(VerifierSection())) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Verify(request("chain", "#1", "1"), timeout=WAIT_S)
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_a_caller_s_deadline_holds_while_the_worker_is_busy(tmp_path: Path) -> None:
    async with running("wait_for_file") as offer, serving(offer) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as late:
            await stub.Verify(request("wait_for_file", "", str(tmp_path)), timeout=0.5)
        assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        (tmp_path / "released").touch()
        assert (await stub.Verify(request("chain", "#1", "1"), timeout=WAIT_S)).score == 1.0


async def test_siblings_that_answer_alike_are_judged_once(tmp_path: Path) -> None:
    async with running("count_calls") as offer:
        asked = VerificationRequest(kind="count_calls", response="4", golds=(str(tmp_path),))
        outcomes = await asyncio.gather(*(offer.dispatcher.verify(replace(asked, request_id=str(index))) for index in range(5)))
        assert {outcome.verdict for outcome in outcomes} == {Verdict.CORRECT}
        assert len(os.listdir(tmp_path))  # noqa: PTH208 - quick == 1


async def test_a_response_without_end_is_no_answer_and_reaches_no_worker() -> None:
    async with running() as offer:
        outcome = await offer.dispatcher.verify(VerificationRequest(kind="math", response="x" * 1_000_001, golds=("1",)))
    assert (outcome.verdict, outcome.reason) == (Verdict.NO_ANSWER, "the response has 1000001 characters; at most 1000000 are judged")


async def test_every_rollout_gets_one_verdict() -> None:
    queue = MemoryQueue(SystemClock())
    await send(queue, [task(0, "=1 #8"), task(1, "=1 #9"), task(2, "=1 =2")])
    async with running() as offer, consuming(queue, VerifyRollouts(queue, offer.dispatcher.verify, NoMetrics())):
        found = await events(queue, 3)
    scores = {name: event.outcome.score for name, event in found.items() if isinstance(event, VerifiedRollout)}
    assert scores == {"7:0": 1.0, "7:1": 0.0, "7:2": 0.0}
    first = found["7:0"]
    assert isinstance(first, VerifiedRollout)
    assert first.rollout.text == "=1 #8"
    np.testing.assert_array_equal(first.rollout.behaviour_logprobs, [-0.5, -0.25, -0.125])
    assert await queue.ledger_counts() == {"issued": 3, "live": 3}
    assert (await queue.depth(ROLLOUTS)).pending == 0


async def test_a_rollout_that_was_delivered_twice_is_judged_but_counts_once() -> None:
    queue = MemoryQueue(SystemClock(), lease_s=0.001)
    await send(queue, [task(0, "=1 #8")])
    async with running() as offer:
        handler = VerifyRollouts(queue, offer.dispatcher.verify, NoMetrics())
        slow = await queue.receive(ROLLOUTS, "verifier-1", wait_s=0)
        await asyncio.sleep(0.01)
        fast = await queue.receive(ROLLOUTS, "verifier-2", wait_s=0)
        assert [delivery.key for delivery in (*slow, *fast)] == ["7:0", "7:0"]
        await handler(fast[0])
        await handler(slow[0])
    assert handler.verified == 1
    depth = await queue.depth(VERDICTS)
    assert depth.waiting + depth.pending == 1


async def test_a_failing_verifier_drops_the_rollout_and_never_scores_it() -> None:
    queue = MemoryQueue(SystemClock())
    await send(queue, [task(0, "r", verifier="raises"), task(1, "#8"), task(2, "\\boxed{1}", verifier="math", ground_truth=" ")])
    async with running("raises") as offer:
        handler = VerifyRollouts(queue, offer.dispatcher.verify, NoMetrics())
        async with consuming(queue, handler):
            found = await events(queue, 3)
    assert found["7:0"] == DroppedRollout(group_id=7, index=0, reason="verifier_error")
    assert found["7:2"] == DroppedRollout(group_id=7, index=2, reason="bad_task")
    assert isinstance(found["7:1"], VerifiedRollout)
    assert await queue.ledger_counts() == {"issued": 3, "live": 1, "dropped:verifier_error": 1, "dropped:bad_task": 1}
    assert (handler.verified, handler.dropped) == (1, 2)


async def test_a_rollout_for_an_unknown_verifier_is_set_aside_with_the_reason() -> None:
    queue = MemoryQueue(SystemClock())
    await send(queue, [task(0, "#8", verifier="maths"), task(1, "#8")])
    async with running() as offer, consuming(queue, VerifyRollouts(queue, offer.dispatcher.verify, NoMetrics())):
        assert set(await events(queue, 1)) == {"7:1"}
        letters = await first(queue.dead_letters)
    assert [letter.rollout_ids for letter in letters] == [("7:0",)]
    assert "unknown verifier 'maths'" in letters[0].reason
    assert await queue.ledger_counts() == {"issued": 2, "live": 1, "dead:rollouts": 1}


async def test_a_payload_that_is_no_rollout_is_set_aside() -> None:
    queue = MemoryQueue(SystemClock())
    await queue.commit("generate:x", outputs=(Output(stream=ROLLOUTS, key="x", payload=b"\xff\xff"),))
    async with running() as offer, consuming(queue, VerifyRollouts(queue, offer.dispatcher.verify, NoMetrics())):
        letters = await first(queue.dead_letters)
    assert "entry x of rollouts is not a VerificationTask" in letters[0].reason


async def test_a_rollout_whose_verification_is_cut_off_stays_in_the_queue() -> None:
    """A judge that never answers: the handler is cancelled with the service, and nothing is committed."""

    async def never(request: VerificationRequest) -> Outcome:
        await asyncio.Event().wait()
        return correct()

    queue = MemoryQueue(SystemClock())
    await send(queue, [task(0, "#8")])
    async with consuming(queue, VerifyRollouts(queue, never, NoMetrics())):

        async def pending() -> int:
            return (await queue.depth(ROLLOUTS)).pending

        await first(pending)
    assert (await queue.depth(ROLLOUTS)).pending == 1
    assert (await queue.depth(VERDICTS)).waiting == 0


async def test_the_report_counts_verdicts_and_busy_seconds() -> None:
    queue = MemoryQueue(SystemClock())
    await send(queue, [task(0, "#8")])
    async with running() as offer:
        handler = VerifyRollouts(queue, offer.dispatcher.verify, NoMetrics())
        (delivery,) = await queue.receive(ROLLOUTS, "verifier-1", wait_s=0)
        await handler(delivery)
        report = status_of(offer.pool, handler, SandboxHealth(offer.pool, NoMetrics(), strict=False))
    assert {name: report[name] for name in ("verified", "dropped", "workers", "ready_workers")} == {
        "verified": 1,
        "dropped": 0,
        "workers": 1,
        "ready_workers": 1,
    }
    assert json.loads(json.dumps(report))["busy_seconds"] > 0


async def test_health_follows_the_workers() -> None:
    server, stopping = GrpcServer("127.0.0.1:0"), asyncio.Event()
    async with running() as offer:
        server.add(add_VerifierServiceServicer_to_server, servicer_of(offer), SERVICE)
        port = await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            health: Any = HealthStub(channel)

            async def serving_now() -> bool:
                answer = await health.Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=WAIT_S)
                return answer.status == health_pb2.HealthCheckResponse.SERVING

            async def not_serving_now() -> bool:
                return not await serving_now()

            assert await not_serving_now()
            health_of = SandboxHealth(offer.pool, NoMetrics(), strict=False)
            watching = asyncio.create_task(
                watch_health(offer.pool, health_of, server, NoMetrics(), SystemClock(), every_s=0.01, stopping=stopping)
            )
            await first(serving_now)
            await offer.pool.close()
            await first(not_serving_now)
            stopping.set()
            await watching
        await server.stop(0)
