"""Composition root of the verifier."""

from functools import partial

from oprime.adapters.prometheus_metrics import PrometheusMetrics
from oprime.adapters.redis_queue import RedisQueue
from oprime.adapters.system_clock import SystemClock
from oprime.ports import ROLLOUTS
from oprime.runtime.consume import consume
from oprime.runtime.grpc_server import GrpcServer
from oprime.runtime.heartbeat import report_heartbeats
from oprime.runtime.process import Lifecycle
from oprime_proto.v1.verifier_pb2_grpc import add_VerifierServiceServicer_to_server
from oprime_verifier.config import VerifierSettings
from oprime_verifier.servicer import VerifierServicer
from oprime_verifier.status import replica_id, status_of, watch_health
from oprime_verifier.verify import VerifyRollouts
from oprime_verifier.worker import WorkerSetup
from oprime_verifier.worker_pool import WorkerPool

MIB = 1024 * 1024


async def serve(settings: VerifierSettings, lifecycle: Lifecycle) -> None:
    clock, metrics, replica = SystemClock(), PrometheusMetrics.at(settings.endpoints), replica_id()
    pool = make_pool(settings)
    server = GrpcServer(settings.endpoints.listen("verifier"), reflection=settings.endpoints.reflection)
    server.add(add_VerifierServiceServicer_to_server, VerifierServicer(pool), "oprime_proto.v1.VerifierService")
    queue = RedisQueue.of_run(settings.queue, settings.run.name)
    handler = VerifyRollouts(queue, pool, metrics)
    try:
        await server.start()
        await pool.start()
        every_s, stopping = settings.run.heartbeat_s, lifecycle.stopping
        await lifecycle.run(
            watch_health(pool, server, metrics, clock, every_s=every_s, stopping=stopping),
            report_heartbeats(queue, f"verifier/{replica}", partial(status_of, pool, handler), every_s=every_s, stopping=stopping),
            consume(
                queue,
                ROLLOUTS,
                replica,
                handler,
                # One item in judgement and one ready for each worker.
                concurrency=2 * settings.verifier.workers,
                lease_s=settings.queue.lease_s,
                clock=clock,
                stopping=stopping,
                metrics=metrics,
            ),
        )
    finally:
        await server.stop()
        await pool.close()
        await queue.close()


def make_pool(settings: VerifierSettings) -> WorkerPool:
    section = settings.verifier
    setup = WorkerSetup(plugins=section.plugins, memory_bytes=section.memory_mib * MIB, deadline_s=section.deadline_s)
    return WorkerPool(setup, workers=section.workers, attempts=section.attempts)
