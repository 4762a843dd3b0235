"""A verifier behind HTTP that is down for a while: the run's rollouts wait for it, are judged once, and nobody else waits."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from structlog.testing import capture_logs

from oprime.adapters.memory_queue import MemoryQueue
from oprime.adapters.system_clock import SystemClock
from oprime.core.types import VerificationTask, VerifiedRollout
from oprime.core.verification import Verdict, VerificationRequest
from oprime.ports import ROLLOUTS
from oprime.runtime.consume import consume
from oprime_proto.v1 import verifier_pb2
from oprime_verifier.config import VerifierSection
from oprime_verifier.external.settings import WebhookSection
from oprime_verifier.offer import Offer
from oprime_verifier.sandbox_health import SandboxHealth
from oprime_verifier.status import status_of
from oprime_verifier.verify import VerifyRollouts
from service.verifier_external.conftest import Answer, Server, says
from service.verifier_service import WAIT_S, NoMetrics, events, handler_of, send, serving, task

HELD = 12
OTHERS = 9


async def _rightly(_request: Request, message: Any) -> Response:
    asked = message["inputs"][0]
    return JSONResponse({"data": [{"request_id": asked.get("request_id", ""), "verdict": "CORRECT"}]})


answers_rightly: Answer = _rightly


@asynccontextmanager
async def offering(url: str, **settings: Any) -> AsyncIterator[Offer]:
    judge = WebhookSection.model_validate({"url": url, "circuit_failures": 2, "circuit_open_s": 0.3, "attempts": 2, **settings})
    offer = Offer(VerifierSection(workers=1, webhooks={"judge": judge}))
    await offer.start()
    try:
        yield offer
    finally:
        await offer.close()


@asynccontextmanager
async def taking(queue: MemoryQueue, offer: Offer) -> AsyncIterator[VerifyRollouts]:
    """The loop as the service runs it: two places for its one worker."""
    stopping, clock = asyncio.Event(), SystemClock()

    async def judge(request: VerificationRequest) -> Any:
        return await offer.dispatcher.verify(request, patient=True)

    handler = handler_of(queue, judge, stopping)
    loop = consume(
        queue,
        ROLLOUTS,
        "verifier-1",
        handler,
        concurrency=lambda: 2 + offer.dispatcher.held,
        lease_s=30.0,
        clock=clock,
        stopping=stopping,
        metrics=NoMetrics(),
    )
    running = asyncio.create_task(loop)
    try:
        yield handler
    finally:
        stopping.set()
        await running


async def test_rollouts_wait_for_a_webhook_that_is_down_and_others_pass(server: Server) -> None:
    server.answers = [says({}, 503)]
    queue = MemoryQueue(SystemClock())
    await send(queue, [*judged_by_webhook(), *(task(100 + index, f"=1 #{index}") for index in range(OTHERS))])
    with capture_logs() as logs:
        async with offering(server.url) as offer, taking(queue, offer) as handler:
            passed = await events(queue, OTHERS)
            assert set(passed) == {f"7:{100 + index}" for index in range(OTHERS)}
            await until_held(offer)
            report = status_of(offer, handler, SandboxHealth(offer.pool, NoMetrics(), strict=False))
            async with serving(offer) as stub:
                health = await stub.Health(verifier_pb2.VerifierServiceHealthRequest(), timeout=WAIT_S)
            server.answers, before = [answers_rightly], len(server.seen)
            found = await events(queue, HELD)
    assert all(isinstance(event, VerifiedRollout) and event.outcome.score == 1.0 for event in found.values())
    assert await queue.ledger_counts() == {"issued": HELD + OTHERS, "live": HELD + OTHERS}
    judged = [seen.message["inputs"][0]["request_id"] for seen in server.seen[before:]]
    assert sorted(judged) == sorted(found)
    said = [entry for entry in logs if entry["event"] in ("verifier_out", "verifier_back")]
    assert [entry["event"] for entry in said] == ["verifier_out", "verifier_back"]
    assert "503" in said[0]["reason"]
    for held, outage in ((report["held_rollouts"], report["outage"]), (health.held_rollouts, health.outage)):
        assert (held, "503" in str(outage), server.url in str(outage)) == (HELD, True, True)
    json.dumps(report)


async def test_a_direct_caller_is_answered_by_its_deadline_while_rollouts_wait(server: Server) -> None:
    server.answers = [says({}, 503)]
    queue = MemoryQueue(SystemClock())
    await send(queue, judged_by_webhook())
    async with offering(server.url) as offer, taking(queue, offer):
        await until_held(offer)
        # The same question as one that waits.
        async with asyncio.timeout(5):
            asked = VerificationRequest(kind="judge", response="answer 0", golds=("8",), data_source="chain", deadline_s=1.0)
            outcome = await offer.dispatcher.verify(asked)
        assert outcome.verdict is Verdict.INFRA_ERROR
        assert "503" in outcome.reason
        assert offer.dispatcher.held == HELD


async def test_what_waits_is_dropped_when_its_time_is_up_and_says_why(server: Server) -> None:
    server.answers = [says({}, 503)]
    queue = MemoryQueue(SystemClock())
    await send(queue, judged_by_webhook())
    with capture_logs() as logs:
        async with offering(server.url, hold_s=1.0) as offer, taking(queue, offer):
            await events(queue, HELD)
    assert await queue.ledger_counts() == {"issued": HELD, "live": 0, "dropped:verifier_error": HELD}
    reasons = [entry["reason"] for entry in logs if entry["event"] == "rollout_dropped"]
    assert len(reasons) == HELD
    assert all("503" in reason and "held for 1 s" in reason for reason in reasons)


@pytest.mark.parametrize("answer", [says({}, 400), says({"data": [{"verdict": "GREAT"}]})])
async def test_one_rollout_that_the_webhook_cannot_judge_is_dropped_alone(server: Server, answer: Any) -> None:
    async def refuses_one(request: Request, message: Any) -> Response:
        bad = message["inputs"][0]["response"] == "answer 0"
        return await (answer if bad else answers_rightly)(request, message)

    server.answers = [refuses_one]
    queue = MemoryQueue(SystemClock())
    await send(queue, judged_by_webhook())
    async with offering(server.url, circuit_failures=5) as offer, taking(queue, offer) as handler:
        await events(queue, HELD)
    assert (handler.verified, handler.dropped) == (HELD - 1, 1)


def judged_by_webhook() -> list[VerificationTask]:
    return [task(index, f"answer {index}", verifier="judge") for index in range(HELD)]


async def until_held(offer: Offer) -> None:
    async with asyncio.timeout(WAIT_S):
        while offer.dispatcher.held < HELD:  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.02)
