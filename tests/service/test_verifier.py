"""The verifier's RPCs and its queue worker, on real worker processes."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
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
    Outcome,
    OutcomeStatus,
    Rollout,
    VerificationTask,
    VerifiedRollout,
    WeightVersionSpan,
)
from oprime.ports import LIVE, ROLLOUTS, VERDICTS, LedgerMove, Output
from oprime.runtime.consume import consume
from oprime.runtime.grpc_client import connect
from oprime.runtime.grpc_server import GrpcServer
from oprime.wire.codec import event_from_proto, verification_task_to_proto
from oprime_proto.v1 import common_pb2, verifier_pb2
from oprime_proto.v1.verifier_pb2_grpc import VerifierServiceStub, add_VerifierServiceServicer_to_server
from oprime_verifier.servicer import VerifierServicer
from oprime_verifier.status import status_of, watch_health
from oprime_verifier.verify import VerifyRollouts
from oprime_verifier.worker import WorkerSetup
from oprime_verifier.worker_pool import WorkerPool

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
async def running(*names: str, deadline_s: float = WAIT_S, workers: int = 1) -> AsyncIterator[WorkerPool]:
    setup = WorkerSetup(plugins={name: f"{PLUGINS}:{name}" for name in names}, memory_bytes=2**31, deadline_s=deadline_s)
    pool = WorkerPool(setup, workers=workers, attempts=2)
    await pool.start()
    try:
        yield pool
    finally:
        await pool.close()


@asynccontextmanager
async def serving(pool: WorkerPool) -> AsyncIterator[VerifierServiceStub]:
    server = GrpcServer("127.0.0.1:0")
    server.add(add_VerifierServiceServicer_to_server, VerifierServicer(pool), SERVICE)
    port = await server.start()
    await server.set_serving(True)
    channel = connect(f"127.0.0.1:{port}")
    try:
        yield VerifierServiceStub(channel)
    finally:
        await channel.close()
        await server.stop(0)


def request(verifier: str, response: str, ground_truth: str) -> verifier_pb2.VerifyRequest:
    return verifier_pb2.VerifyRequest(verifier=verifier, response=response, ground_truth=ground_truth)


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
    return VerificationTask(rollout=rollout(index, text), verifier=verifier, ground_truth=ground_truth, data_source="chain")


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


async def test_verify_answers_with_outcome_and_seconds() -> None:
    async with running() as pool, serving(pool) as stub:
        answer = await stub.Verify(request("math", "\\boxed{4}", "#### 4"), timeout=WAIT_S)
        assert (answer.outcome.status, answer.outcome.score) == (common_pb2.OUTCOME_STATUS_SCORED, 1.0)
        assert (answer.outcome.answer, answer.outcome.verifier) == ("4", "math")
        assert answer.seconds > 0


async def test_a_batch_keeps_its_order_and_one_failure_stays_alone() -> None:
    async with running("raises", workers=2) as pool, serving(pool) as stub:
        requests = [request("chain", f"#{digit}", "3") for digit in range(9)]
        requests[5] = request("raises", "r", "g")
        requests[6] = request("math", "no idea", "3")
        answer = await stub.VerifyBatch(verifier_pb2.VerifyBatchRequest(requests=requests), timeout=WAIT_S)
        scores = [item.outcome.score if item.outcome.HasField("score") else None for item in answer.responses]
        assert scores == [0, 0, 0, 1, 0, None, 0, 0, 0]
        assert answer.responses[5].outcome.status == common_pb2.OUTCOME_STATUS_ERROR
        assert answer.responses[6].outcome.status == common_pb2.OUTCOME_STATUS_INVALID


async def test_describe_names_every_verifier() -> None:
    async with running("length") as pool, serving(pool) as stub:
        answer = await stub.Describe(verifier_pb2.DescribeRequest(), timeout=WAIT_S)
        described = {item.name: item.description for item in answer.verifiers}
        assert set(described) == {"math", "exact", "chain", "length"}
        assert described["length"] == "Share of the wanted number of characters."
        assert all(item.version for item in answer.verifiers if item.name != "length")


@pytest.mark.parametrize("batch", [False, True])
async def test_an_unknown_verifier_is_an_invalid_argument(batch: bool) -> None:
    async with running() as pool, serving(pool) as stub:
        unknown = request("maths", "a", "b")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await (
                stub.VerifyBatch(verifier_pb2.VerifyBatchRequest(requests=[request("chain", "#1", "1"), unknown]), timeout=WAIT_S)
                if batch
                else stub.Verify(unknown, timeout=WAIT_S)
            )
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "offers chain, exact, math" in (refused.value.details() or "")


async def test_before_a_worker_is_ready_the_service_is_unavailable() -> None:
    pool = WorkerPool(WorkerSetup(plugins={}, memory_bytes=2**31, deadline_s=1), workers=1, attempts=1)
    server = GrpcServer("127.0.0.1:0")
    server.add(add_VerifierServiceServicer_to_server, VerifierServicer(pool), SERVICE)
    port = await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await VerifierServiceStub(channel).Verify(request("chain", "#1", "1"), timeout=WAIT_S)
    await server.stop(0)
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_a_caller_s_deadline_holds_while_the_worker_is_busy(tmp_path: Path) -> None:
    async with running("wait_for_file") as pool, serving(pool) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as late:
            await stub.Verify(request("wait_for_file", "", str(tmp_path)), timeout=0.5)
        assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        (tmp_path / "released").touch()
        answer = await stub.Verify(request("chain", "#1", "1"), timeout=WAIT_S)
        assert answer.outcome.score == 1.0


async def test_every_rollout_gets_one_verdict() -> None:
    queue = MemoryQueue(SystemClock())
    await send(queue, [task(0, "=1 #8"), task(1, "=1 #9"), task(2, "=1 =2")])
    async with running() as pool, consuming(queue, VerifyRollouts(queue, pool, NoMetrics())):
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
    async with running() as pool:
        handler = VerifyRollouts(queue, pool, NoMetrics())
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
    await send(queue, [task(0, "r", verifier="raises"), task(1, "#8"), task(2, "\\boxed{1}", verifier="math", ground_truth="???")])
    async with running("raises") as pool:
        handler = VerifyRollouts(queue, pool, NoMetrics())
        async with consuming(queue, handler):
            found = await events(queue, 3)
    assert found["7:0"] == DroppedRollout(group_id=7, index=0, reason="verifier_error")
    assert found["7:2"] == DroppedRollout(group_id=7, index=2, reason="verifier_error")
    assert isinstance(found["7:1"], VerifiedRollout)
    assert await queue.ledger_counts() == {"issued": 3, "live": 1, "dropped:verifier_error": 2}
    assert (handler.verified, handler.dropped) == (1, 2)


async def test_a_rollout_for_an_unknown_verifier_is_set_aside_with_the_reason() -> None:
    queue = MemoryQueue(SystemClock())
    await send(queue, [task(0, "#8", verifier="maths"), task(1, "#8")])
    async with running() as pool, consuming(queue, VerifyRollouts(queue, pool, NoMetrics())):
        assert set(await events(queue, 1)) == {"7:1"}
        letters = await first(queue.dead_letters)
    assert [letter.rollout_ids for letter in letters] == [("7:0",)]
    assert "unknown verifier 'maths'" in letters[0].reason
    assert await queue.ledger_counts() == {"issued": 2, "live": 1, "dead:rollouts": 1}


async def test_a_payload_that_is_no_rollout_is_set_aside() -> None:
    queue = MemoryQueue(SystemClock())
    await queue.commit("generate:x", outputs=(Output(stream=ROLLOUTS, key="x", payload=b"\xff\xff"),))
    async with running() as pool, consuming(queue, VerifyRollouts(queue, pool, NoMetrics())):
        letters = await first(queue.dead_letters)
    assert "entry x of rollouts is not a VerificationTask" in letters[0].reason


async def test_a_rollout_whose_verification_is_cut_off_stays_in_the_queue() -> None:
    """A judge that never answers: the handler is cancelled with the service, and nothing is committed."""

    class NeverJudge:
        async def judge(self, verifier: str, response: str, ground_truth: str, data_source: str = "") -> tuple[Outcome, float]:
            await asyncio.Event().wait()
            return Outcome(status=OutcomeStatus.SCORED, score=1.0), 0.0

    queue = MemoryQueue(SystemClock())
    await send(queue, [task(0, "#8")])
    async with consuming(queue, VerifyRollouts(queue, NeverJudge(), NoMetrics())):

        async def pending() -> int:
            return (await queue.depth(ROLLOUTS)).pending

        await first(pending)
    assert (await queue.depth(ROLLOUTS)).pending == 1
    assert (await queue.depth(VERDICTS)).waiting == 0


async def test_the_report_counts_verdicts_and_busy_seconds() -> None:
    queue = MemoryQueue(SystemClock())
    await send(queue, [task(0, "#8")])
    async with running() as pool:
        handler = VerifyRollouts(queue, pool, NoMetrics())
        (delivery,) = await queue.receive(ROLLOUTS, "verifier-1", wait_s=0)
        await handler(delivery)
        report = status_of(pool, handler)
    assert {name: report[name] for name in ("verified", "dropped", "workers", "ready_workers")} == {
        "verified": 1,
        "dropped": 0,
        "workers": 1,
        "ready_workers": 1,
    }
    assert json.loads(json.dumps(report))["busy_seconds"] > 0


async def test_health_follows_the_workers() -> None:
    server, stopping = GrpcServer("127.0.0.1:0"), asyncio.Event()
    async with running() as pool:
        server.add(add_VerifierServiceServicer_to_server, VerifierServicer(pool), SERVICE)
        port = await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            health: Any = HealthStub(channel)

            async def serving_now() -> bool:
                answer = await health.Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=WAIT_S)
                return answer.status == health_pb2.HealthCheckResponse.SERVING

            async def not_serving_now() -> bool:
                return not await serving_now()

            assert await not_serving_now()
            watching = asyncio.create_task(watch_health(pool, server, NoMetrics(), SystemClock(), every_s=0.01, stopping=stopping))
            await first(serving_now)
            await pool.close()
            await first(not_serving_now)
            stopping.set()
            await watching
        await server.stop(0)
