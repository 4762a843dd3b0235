"""The verifier's RPCs and its queue worker, on real worker processes."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import grpc
import numpy as np
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub
from structlog.testing import capture_logs

from living_processes import children, lives
from oprime.adapters.memory_queue import MemoryQueue
from oprime.adapters.prometheus_metrics import PrometheusMetrics
from oprime.adapters.system_clock import SystemClock
from oprime.core.types import (
    DroppedRollout,
    VerifiedRollout,
)
from oprime.core.verification import Outcome, Verdict, VerificationRequest, correct
from oprime.ports import ROLLOUTS, VERDICTS, Output
from oprime.runtime.consume import consume
from oprime.runtime.errors import NotReadyError, QueueUnavailableError
from oprime.runtime.grpc_server import GrpcServer
from oprime.wire.verification import request_to_proto
from oprime_proto.v1 import verification_pb2, verifier_pb2
from oprime_proto.v1.verifier_pb2_grpc import add_VerifierServiceServicer_to_server
from oprime_verifier.config import VerifierSection
from oprime_verifier.external.settings import PluginSection
from oprime_verifier.offer import Offer
from oprime_verifier.sandbox_health import SandboxHealth
from oprime_verifier.status import status_of, watch_health
from oprime_verifier.verify import VerifyRollouts
from rollouts import content
from service.verifier_service import SERVICE, WAIT_S, NoMetrics, events, handler_of, send, servicer_of, serving, task

pytestmark = pytest.mark.asyncio(loop_scope="module")

PLUGINS = "service.verifier_plugins"
T = TypeVar("T")


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


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shared() -> AsyncIterator[Offer]:
    """One for all tests that leave its workers as they are: a worker takes a second to start."""
    async with running("count_calls", "length", "raises", "tells_options", workers=2) as offer:
        yield offer


def request(kind: str, response: str, gold: str, request_id: str = "") -> verification_pb2.VerifyRequest:
    return verification_pb2.VerifyRequest(kind=kind, response=response, golds=[gold], request_id=request_id)


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


async def test_verify_answers_with_a_verdict_and_says_who_judged(shared: Offer) -> None:
    async with serving(shared) as stub:
        answer = await stub.Verify(request("math", "\\boxed{4}", "4", request_id="a-7"), timeout=WAIT_S)
        assert (answer.verdict, answer.score, answer.request_id) == (verification_pb2.VERDICT_CORRECT, 1.0, "a-7")
        assert (answer.answer, answer.verifier.name) == ("4", "math")
        assert len(answer.verifier.config_hash) == 16
        assert answer.timings["total"] > 0


async def test_options_travel_typed_and_a_missing_score_stays_missing(shared: Offer) -> None:
    async with serving(shared) as stub:
        bare = request("math", "4", "4")
        bare.math.bare = True
        assert (await stub.Verify(bare, timeout=WAIT_S)).verdict == verification_pb2.VERDICT_CORRECT
        bad = await stub.Verify(request("math", "\\boxed{4}", ""), timeout=WAIT_S)
        assert bad.verdict == verification_pb2.VERDICT_BAD_TASK
        assert not bad.HasField("score")


async def test_a_code_task_runs_in_the_sandbox_and_reports_each_test(shared: Offer) -> None:
    tests = json.dumps({"inputs": ["1 2\n", "3 4\n"], "outputs": ["3\n", "7\n"]})
    async with serving(shared) as stub:
        asked = verification_pb2.VerifyRequest(kind="code", response="```python\nprint(sum(map(int, input().split())))\n```", tests=tests)
        answer = await stub.Verify(asked, timeout=WAIT_S)
        assert (answer.verdict, answer.score) == (verification_pb2.VERDICT_CORRECT, 1.0)
        assert sorted(test.index for test in answer.tests) == [0, 1]
        assert answer.verifier.sandbox_profile


async def test_a_batch_keeps_its_order_and_one_failure_stays_alone(shared: Offer) -> None:
    async with serving(shared) as stub:
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
    assert set(described) == {"math", "code", "exact", "chain", "paper_math", "length", "broken"}
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
async def test_an_unknown_verifier_is_an_invalid_argument(shared: Offer, batch: bool) -> None:
    async with serving(shared) as stub:
        unknown = request("maths", "a", "b")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await (
                stub.VerifyBatch(verifier_pb2.VerifyBatchRequest(requests=[request("chain", "#1", "1"), unknown]), timeout=WAIT_S)
                if batch
                else stub.Verify(unknown, timeout=WAIT_S)
            )
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "offers chain, code, count_calls, exact, length, math, paper_math, raises, tells_options" in (refused.value.details() or "")


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


async def test_siblings_that_answer_alike_are_judged_once(shared: Offer, tmp_path: Path) -> None:
    asked = VerificationRequest(kind="count_calls", response="4", golds=(str(tmp_path),))
    outcomes = await asyncio.gather(*(shared.dispatcher.verify(replace(asked, request_id=str(index))) for index in range(5)))
    assert {outcome.verdict for outcome in outcomes} == {Verdict.CORRECT}
    assert len(os.listdir(tmp_path))  # noqa: PTH208 - quick == 1


async def test_a_response_without_end_is_no_answer_and_reaches_no_worker(shared: Offer) -> None:
    outcome = await shared.dispatcher.verify(VerificationRequest(kind="math", response="x" * 1_000_001, golds=("1",)))
    assert (outcome.verdict, outcome.reason) == (Verdict.NO_ANSWER, "the response has 1000001 characters; at most 1000000 are judged")


async def test_every_rollout_gets_one_verdict(shared: Offer) -> None:
    queue = MemoryQueue(SystemClock())
    tasks = [task(0, "=1 #8"), task(1, "=1 #9"), task(2, "=1 =2"), task(3, "[ASSESS]\n\n[OUTPUT]\n\n=1 #8")]
    await send(queue, tasks)
    async with consuming(queue, handler_of(queue, shared.dispatcher.verify)):
        found = await events(queue, 4)
    scores = {name: event.outcome.score for name, event in found.items() if isinstance(event, VerifiedRollout)}
    assert scores == {"7:0": 1.0, "7:1": 0.0, "7:2": 0.0, "7:3": 1.0}
    verified = [event for _, event in sorted(found.items()) if isinstance(event, VerifiedRollout)]
    assert [event.rollout for event in verified] == [one.rollout for one in tasks]
    # The last one took two actions, of which the first has no step.
    assert [(event.actions, event.keeps_action_form) for event in verified] == [(0, False)] * 3 + [(2, False)]
    np.testing.assert_array_equal(content(verified[0]).behaviour_logprobs, [-0.5, -0.25, -0.125])
    assert await queue.ledger_counts() == {"issued": 4, "live": 4}
    assert (await queue.depth(ROLLOUTS)).pending == 0


async def test_a_rollout_that_was_delivered_twice_is_judged_but_counts_once(shared: Offer) -> None:
    queue = MemoryQueue(SystemClock(), lease_s=0.001)
    await send(queue, [task(0, "=1 #8")])
    handler = handler_of(queue, shared.dispatcher.verify)
    slow = await queue.receive(ROLLOUTS, "verifier-1", wait_s=0)
    await asyncio.sleep(0.01)
    fast = await queue.receive(ROLLOUTS, "verifier-2", wait_s=0)
    assert [delivery.key for delivery in (*slow, *fast)] == ["7:0", "7:0"]
    await handler(fast[0])
    await handler(slow[0])
    assert handler.verified == 1
    depth = await queue.depth(VERDICTS)
    assert depth.waiting + depth.pending == 1


async def test_a_failing_verifier_drops_the_rollout_and_never_scores_it(shared: Offer) -> None:
    queue = MemoryQueue(SystemClock())
    await send(queue, [task(0, "r", verifier="raises"), task(1, "#8"), task(2, "\\boxed{1}", verifier="math", ground_truth=" ")])
    handler = handler_of(queue, shared.dispatcher.verify)
    async with consuming(queue, handler):
        found = await events(queue, 3)
    assert found["7:0"] == DroppedRollout(group_id=7, index=0, reason="verifier_error")
    assert found["7:2"] == DroppedRollout(group_id=7, index=2, reason="bad_task")
    assert isinstance(found["7:1"], VerifiedRollout)
    assert await queue.ledger_counts() == {"issued": 3, "live": 1, "dropped:verifier_error": 1, "dropped:bad_task": 1}
    assert (handler.verified, handler.dropped) == (1, 2)


async def test_a_rollout_for_an_unknown_verifier_is_set_aside_with_the_reason(shared: Offer) -> None:
    queue = MemoryQueue(SystemClock())
    await send(queue, [task(0, "#8", verifier="maths"), task(1, "#8")])
    async with consuming(queue, handler_of(queue, shared.dispatcher.verify)):
        assert set(await events(queue, 1)) == {"7:1"}
        letters = await first(queue.dead_letters)
    assert [letter.rollout_ids for letter in letters] == [("7:0",)]
    assert "unknown verifier 'maths'" in letters[0].reason
    assert await queue.ledger_counts() == {"issued": 2, "live": 1, "dead:rollouts": 1}


async def test_a_payload_that_is_no_rollout_is_set_aside(shared: Offer) -> None:
    queue = MemoryQueue(SystemClock())
    await queue.commit("generate:x", outputs=(Output(stream=ROLLOUTS, key="x", payload=b"\xff\xff"),))
    async with consuming(queue, handler_of(queue, shared.dispatcher.verify)):
        letters = await first(queue.dead_letters)
    assert "is no readable VerificationTask" in letters[0].reason


async def test_a_rollout_whose_verification_is_cut_off_stays_in_the_queue() -> None:
    """A judge that never answers: the handler is cancelled with the service, and nothing is committed."""

    async def never(request: VerificationRequest) -> Outcome:
        await asyncio.Event().wait()
        return correct()

    queue = MemoryQueue(SystemClock())
    await send(queue, [task(0, "#8")])
    async with consuming(queue, handler_of(queue, never)):

        async def pending() -> int:
            return (await queue.depth(ROLLOUTS)).pending

        await first(pending)
    assert (await queue.depth(ROLLOUTS)).pending == 1
    assert (await queue.depth(VERDICTS)).waiting == 0


async def test_the_report_counts_verdicts_and_busy_seconds() -> None:
    queue = MemoryQueue(SystemClock())
    await send(queue, [task(0, "#8")])
    async with running() as offer:
        handler = handler_of(queue, offer.dispatcher.verify)
        (delivery,) = await queue.receive(ROLLOUTS, "verifier-1", wait_s=0)
        await handler(delivery)
        report = status_of(offer, handler, SandboxHealth(offer.pool, NoMetrics(), strict=False))
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
                watch_health(offer, health_of, server, NoMetrics(), SystemClock(), every_s=0.01, stopping=stopping)
            )
            await first(serving_now)
            await offer.pool.close()
            await first(not_serving_now)
            stopping.set()
            await watching
        await server.stop(0)


class Blinking(MemoryQueue):
    """A queue that does not answer the first commits of verdicts."""

    def __init__(self, blinks: int) -> None:
        super().__init__(SystemClock())
        self.blinks = blinks
        self.slow_s = 0.0

    async def commit(self, mark: str, **parts: Any) -> Any:
        if mark.startswith("verify:") and self.blinks:
            self.blinks -= 1
            raise QueueUnavailableError("the queue is away for a moment")
        await asyncio.sleep(self.slow_s)
        return await super().commit(mark, **parts)


async def test_a_verdict_outlives_a_moment_without_the_queue() -> None:
    asked: list[VerificationRequest] = []

    async def once(request: VerificationRequest) -> Outcome:
        asked.append(request)
        return correct()

    queue = Blinking(blinks=2)
    await send(queue, [task(0, "#8")])
    handler = handler_of(queue, once)
    async with consuming(queue, handler):
        assert isinstance((await events(queue, 1))["7:0"], VerifiedRollout)
    assert (len(asked), handler.verified, queue.blinks) == (1, 1, 0)
    assert (await queue.depth(ROLLOUTS)).pending == 0


async def test_a_stop_lets_a_commit_that_has_begun_come_to_its_end() -> None:
    async def right(_request: VerificationRequest) -> Outcome:
        return correct()

    queue = Blinking(blinks=0)
    await send(queue, [task(0, "#8")])
    queue.slow_s = 0.3
    handler = handler_of(queue, right)
    (delivery,) = await queue.receive(ROLLOUTS, "verifier-1", wait_s=0)
    handling = asyncio.create_task(handler(delivery))
    await asyncio.sleep(0.1)
    handling.cancel()
    await handling
    assert handler.verified == 1
    assert (await queue.depth(ROLLOUTS)).pending == 0
    assert set(await events(queue, 1)) == {"7:0"}


async def test_a_signal_to_all_processes_neither_drops_a_rollout_nor_scores_it(tmp_path: Path) -> None:
    """As a service manager stops it: every process of the group gets SIGTERM, the workers first."""
    queue, stopping = MemoryQueue(SystemClock()), asyncio.Event()
    await send(queue, [task(0, "", verifier="wait_for_file", ground_truth=str(tmp_path))])
    async with running("wait_for_file", attempts=1) as offer:
        handler = handler_of(queue, offer.dispatcher.verify, stopping)
        async with consuming(queue, handler):

            async def at_work() -> bool:
                return bool(os.listdir(tmp_path))  # noqa: PTH208 - quick

            await first(at_work)
            workers = children("oprime_verifier.working.judge")
            assert workers
            for worker in workers:
                worker.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.5)
            assert all(lives(worker) for worker in workers)
    assert (handler.verified, handler.dropped) == (0, 0)
    assert (await queue.depth(VERDICTS)).waiting == 0
    assert (await queue.depth(ROLLOUTS)).pending == 1


async def test_what_ends_after_the_stop_began_is_left_to_another() -> None:
    stopping = asyncio.Event()

    async def cut_short(_request: VerificationRequest) -> Outcome:
        stopping.set()
        return Outcome(verdict=Verdict.RUNTIME, score=0.0, reason="the program was ended by signal 15")

    queue = MemoryQueue(SystemClock())
    await send(queue, [task(0, "#8")])
    handler = handler_of(queue, cut_short, stopping)
    async with consuming(queue, handler):
        await stopping.wait()
        await asyncio.sleep(0.1)
    assert (handler.verified, handler.dropped) == (0, 0)
    assert (await queue.depth(ROLLOUTS)).pending == 1


async def test_a_rollout_that_is_dropped_says_why_in_the_log(shared: Offer) -> None:
    queue = MemoryQueue(SystemClock())
    await send(queue, [task(0, "r", verifier="raises")])
    with capture_logs() as logs:
        async with consuming(queue, handler_of(queue, shared.dispatcher.verify)):
            await events(queue, 1)
    (entry,) = [entry for entry in logs if entry["event"] == "rollout_dropped"]
    assert (entry["rollout_id"], entry["verifier"], entry["verdict"], entry["log_level"]) == ("7:0", "raises", "INFRA_ERROR", "warning")
    assert "raised" in entry["reason"]


async def test_an_option_that_is_no_number_in_json_is_an_invalid_argument(shared: Offer) -> None:
    async with serving(shared) as stub:
        asked = request("length", "8", "8")
        asked.other.fields["n"].number_value = float("nan")
        with pytest.raises(grpc.aio.AioRpcError, match="n is nan") as refused:
            await stub.Verify(asked, timeout=WAIT_S)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("value", [3, True, 3.5, [1, {"n": 2}]])
async def test_a_plug_in_gets_its_options_with_their_types(shared: Offer, value: Any) -> None:
    async with serving(shared) as stub:
        asked = request_to_proto(VerificationRequest(kind="tells_options", response="8", golds=("8",), options={"n": value}))
        assert (await stub.Verify(asked, timeout=WAIT_S)).answer == repr(value)
