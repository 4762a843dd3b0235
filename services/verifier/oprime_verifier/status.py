"""What a replica says about itself: its report in the queue, its health, a gauge."""

import asyncio
import os
import socket

from oprime.ports import Clock, Metrics
from oprime.runtime.grpc_server import GrpcServer
from oprime_verifier.offer import Offer
from oprime_verifier.sandbox_health import SandboxHealth
from oprime_verifier.verify import VerifyRollouts


def replica_id() -> str:
    """A name of this process that no other replica has."""
    return f"{socket.gethostname()}-{os.getpid()}"


def status_of(offer: Offer, handler: VerifyRollouts, health: SandboxHealth) -> dict[str, object]:
    """The report in the queue's value `verifier/ID`."""
    return {
        "verified": handler.verified,
        "dropped": handler.dropped,
        "workers": offer.pool.workers,
        "ready_workers": offer.pool.ready_workers,
        "sandbox": health.problem or "complete",
        "held_rollouts": offer.dispatcher.held,
        "outage": offer.dispatcher.outage,
        **offer.pool.meter.read(),
    }


async def watch_health(
    offer: Offer,
    health: SandboxHealth,
    server: GrpcServer,
    metrics: Metrics,
    clock: Clock,
    *,
    every_s: float,
    stopping: asyncio.Event,
) -> None:
    """Serve while at least one worker is ready, and in strict mode only behind a complete sandbox."""
    while not stopping.is_set():
        await server.set_serving(health.serving)
        metrics.gauge("verifier_ready_workers", offer.pool.ready_workers)
        metrics.gauge("verifier_held_rollouts", offer.dispatcher.held)
        await clock.sleep(every_s)
