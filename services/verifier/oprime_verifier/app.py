"""Composition root of the verifier."""

from functools import partial

from oprime.adapters.prometheus_metrics import PrometheusMetrics
from oprime.adapters.redis_queue import RedisQueue
from oprime.adapters.system_clock import SystemClock
from oprime.core.verification import Outcome, VerificationRequest
from oprime.ports import ROLLOUTS
from oprime.runtime.consume import consume
from oprime.runtime.grpc_server import GrpcServer
from oprime.runtime.heartbeat import report_heartbeats
from oprime.runtime.process import Lifecycle
from oprime_proto.v1.verifier_pb2_grpc import add_VerifierServiceServicer_to_server
from oprime_verifier.config import VerifierSettings
from oprime_verifier.offer import Offer
from oprime_verifier.sandbox_health import SandboxHealth
from oprime_verifier.servicer import VerifierServicer
from oprime_verifier.status import replica_id, status_of, watch_health
from oprime_verifier.verify import VerifyRollouts


async def serve(settings: VerifierSettings, lifecycle: Lifecycle, *, queue_too: bool = True) -> None:
    """Answer gRPC, and judge the run's rollouts unless `queue_too` is off."""
    section, clock, metrics = settings.verifier, SystemClock(), PrometheusMetrics.at(settings.endpoints)
    offer = Offer(section)
    health = SandboxHealth(offer.pool, metrics, strict=section.sandbox.strict)
    server = GrpcServer(settings.endpoints.listen("verifier"), reflection=settings.endpoints.reflection)
    servicer = VerifierServicer(offer.dispatcher, health, concurrency=section.workers, deadline_s=section.deadline_s)
    server.add(add_VerifierServiceServicer_to_server, servicer, "oprime_proto.v1.VerifierService")
    every_s, stopping = settings.run.heartbeat_s, lifecycle.stopping

    async def judge(request: VerificationRequest) -> Outcome:
        await health.ready(clock)
        return await offer.dispatcher.verify(request)

    queue = RedisQueue.of_run(settings.queue, settings.run.name) if queue_too else None
    try:
        await server.start()
        await offer.start()
        await health.check()
        work = [
            health.watch(clock, every_s=section.sandbox.self_test_every_s, stopping=stopping),
            watch_health(offer.pool, health, server, metrics, clock, every_s=every_s, stopping=stopping),
        ]
        if queue is not None:
            handler, replica = VerifyRollouts(queue, judge, metrics), replica_id()
            report = partial(status_of, offer.pool, handler, health)
            work += [
                report_heartbeats(queue, f"verifier/{replica}", report, every_s=every_s, stopping=stopping),
                consume(
                    queue,
                    ROLLOUTS,
                    replica,
                    handler,
                    # One item in judgement and one ready for each worker.
                    concurrency=2 * section.workers,
                    lease_s=settings.queue.lease_s,
                    clock=clock,
                    stopping=stopping,
                    metrics=metrics,
                ),
            ]
        await lifecycle.run(*work)
    finally:
        await server.stop()
        await offer.close()
        if queue is not None:
            await queue.close()
