"""What this replica says about itself: a value in the queue, gauges, and its health."""

import asyncio
import json
import os
import socket
import time

import structlog

from oprime.ports import Clock, Metrics, Queue
from oprime.runtime.errors import QueueUnavailableError
from oprime.runtime.grpc_server import GrpcServer
from oprime_verifier.verify import VerifyRollouts
from oprime_verifier.worker_pool import WorkerPool

log = structlog.get_logger()


def replica_id() -> str:
    """A name of this process that no other replica has."""
    return f"{socket.gethostname()}-{os.getpid()}"


class Heartbeat:
    """Writes `verifier/ID`: how many rollouts were verified, busy and idle seconds (a mean over workers), and when."""

    def __init__(self, replica: str, pool: WorkerPool, handler: VerifyRollouts, clock: Clock) -> None:
        self._replica = replica
        self._pool = pool
        self._handler = handler
        self._clock = clock
        self._started = clock.now()

    @property
    def value(self) -> bytes:
        elapsed = self._clock.now() - self._started
        busy = self._pool.busy_s / self._pool.workers
        report = {
            "verified": self._handler.verified,
            "dropped": self._handler.dropped,
            "busy_seconds": busy,
            "idle_seconds": max(0.0, elapsed - busy),
            "workers": self._pool.workers,
            "ready_workers": self._pool.ready_workers,
            "heartbeat": time.time(),
        }
        return json.dumps(report).encode()

    async def run(self, queue: Queue, server: GrpcServer, metrics: Metrics, *, every_s: float, stopping: asyncio.Event) -> None:
        """Report until `stopping`; serving means that a worker is ready."""
        while not stopping.is_set():
            await server.set_serving(self._pool.ready_workers > 0)
            metrics.gauge("verifier_ready_workers", self._pool.ready_workers)
            try:
                await queue.set_value(f"verifier/{self._replica}", self.value)
            except QueueUnavailableError as error:
                log.warning("queue_unavailable", error=str(error))
            await self._clock.sleep(every_s)
