"""Composition root of the verifier."""

from contextlib import AsyncExitStack
from functools import partial

from oprime.adapters.observed import observed
from oprime.adapters.open_payloads import open_payloads
from oprime.adapters.redis_queue import RedisQueue
from oprime.adapters.system_clock import SystemClock
from oprime.core.verification import Outcome, VerificationRequest
from oprime.ports import ROLLOUTS, Metrics
from oprime.runtime.consume import check_server, consume
from oprime.runtime.grpc_server import GrpcServer
from oprime.runtime.heartbeat import report_heartbeats
from oprime.runtime.process import Lifecycle
from oprime.runtime.run_end import end_with_run, is_noticed_to_be_over
from oprime_proto.v1.verifier_pb2_grpc import add_VerifierServiceServicer_to_server
from oprime_verifier.config import VerifierSettings
from oprime_verifier.offer import Offer
from oprime_verifier.sandbox_health import SandboxHealth
from oprime_verifier.servicer import VerifierServicer
from oprime_verifier.status import replica_id, status_of, watch_health
from oprime_verifier.verify import VerifyRollouts

ON_THE_WAY = 4
"""Rollouts whose payloads are being read, or whose verdicts are being committed."""


async def serve(settings: VerifierSettings, lifecycle: Lifecycle, *, queue_too: bool = True) -> None:
    """Answer gRPC, and judge the run's rollouts unless `queue_too` is off."""
    with observed("verifier", settings.run.name, settings.endpoints, lifecycle.is_ready) as metrics:
        await _judge(settings, lifecycle, metrics, queue_too=queue_too)


async def _judge(settings: VerifierSettings, lifecycle: Lifecycle, metrics: Metrics, *, queue_too: bool) -> None:
    section, clock = settings.verifier, SystemClock()
    offer = Offer(section, metrics)
    health = SandboxHealth(offer.pool, metrics, strict=section.sandbox.strict)
    server = GrpcServer.of(settings.endpoints, "verifier", on_serving=lifecycle.note_ready)
    servicer = VerifierServicer(offer.dispatcher, health, concurrency=section.workers, deadline_s=section.deadline_s)
    server.add(add_VerifierServiceServicer_to_server, servicer, "oprime_proto.v1.VerifierService")
    every_s, stopping = settings.run.heartbeat_s, lifecycle.stopping

    async def judge(request: VerificationRequest) -> Outcome:
        await health.ready(clock)
        return await offer.dispatcher.verify(request, patient=True)

    async with AsyncExitStack() as closing:
        closing.push_async_callback(offer.close)
        closing.push_async_callback(server.stop)
        await server.start()
        await offer.start()
        await health.check()
        work = [
            health.watch(clock, every_s=section.sandbox.self_test_every_s, stopping=stopping),
            watch_health(offer, health, server, metrics, clock, every_s=every_s, stopping=stopping),
        ]
        if queue_too:
            queue = RedisQueue.of_run(settings.queue, settings.run.name)
            closing.push_async_callback(queue.close)
            payloads = open_payloads(settings.payloads, settings.queue, settings.run.name)
            closing.callback(payloads.close)
            await check_server(queue, clock, stopping)
            handler, replica = VerifyRollouts(queue, payloads, judge, metrics, clock, stopping), replica_id()
            report = partial(status_of, offer, handler, health)
            work += [
                end_with_run(queue, settings.run, clock, stopping, over=is_noticed_to_be_over),
                report_heartbeats(queue, f"verifier/{replica}", report, every_s=every_s, stopping=stopping),
                consume(
                    queue,
                    ROLLOUTS,
                    replica,
                    handler,
                    # One item in judgement and one ready for each worker, and some being read and committed; what waits for a verifier
                    # that is out takes nobody's place.
                    concurrency=lambda: 2 * section.workers + ON_THE_WAY + min(offer.dispatcher.held, section.hold_most),
                    lease_s=settings.queue.lease_s,
                    clock=clock,
                    stopping=stopping,
                    metrics=metrics,
                ),
            ]
        await lifecycle.run(*work)
