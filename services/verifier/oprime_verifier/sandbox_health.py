"""What the sandbox holds back here, tried at the start and again on a timer; in strict mode nothing is judged without it."""

import asyncio
import time
from typing import Any

import structlog

from oprime.ports import Clock, Metrics
from oprime.runtime.errors import NotReadyError
from oprime_proto.v1 import verifier_pb2 as pb
from oprime_verifier.working.worker_pool import WorkerPool

log = structlog.get_logger()

SELF_TEST_DEADLINE_S = 60.0
READY_POLL_S = 1.0


class SandboxHealth:
    """The newest report of the self-test. `strict` refuses to serve without one, and while a layer or probe fails."""

    def __init__(self, pool: WorkerPool, metrics: Metrics, *, strict: bool) -> None:
        self._pool = pool
        self._metrics = metrics
        self._strict = strict
        self._report: dict[str, Any] = {}
        self._failure = "the sandbox's self-test has not run yet"
        self._checked_at = 0.0

    @property
    def problem(self) -> str:
        """What the sandbox lacks; empty when nothing."""
        return self._failure

    @property
    def serving(self) -> bool:
        return self._pool.ready_workers > 0 and not (self._strict and self._failure)

    def require(self) -> None:
        """Raises NotReadyError in strict mode when something is missing."""
        if self._strict and self._failure:
            raise NotReadyError(f"{self._failure}; verifier.sandbox.strict refuses to judge without it")

    async def ready(self, clock: Clock) -> None:
        """Return when judging is allowed; work that waits here keeps its lease."""
        while self._strict and self._failure:
            await clock.sleep(READY_POLL_S)

    async def check(self) -> None:
        """Run the self-test once and remember what it found."""
        try:
            self._report = await self._pool.self_test(SELF_TEST_DEADLINE_S)
            self._failure = _missing(self._report)
        except NotReadyError as error:
            self._failure = str(error)
        self._checked_at = time.time()
        for layer in self._report.get("layers", ()):
            self._metrics.gauge("sandbox_layer_active", float(layer["active"]), layer=layer["name"])
        for probe in self._report.get("probes", ()):
            self._metrics.gauge("sandbox_probe_blocked", float(probe["blocked"]), probe=probe["name"])
        log.info("sandbox_checked", profile=self._report.get("profile", ""), problem=self._failure)

    async def watch(self, clock: Clock, *, every_s: float, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            await self.check()
            await clock.sleep(every_s)

    def to_proto(self) -> pb.VerifierServiceHealthResponse:
        return pb.VerifierServiceHealthResponse(
            serving=self.serving,
            reason=self._failure if self._pool.ready_workers else "no worker is ready yet",
            sandbox=pb.SandboxReport(
                profile=self._report.get("profile", ""),
                layers=[
                    pb.SandboxLayer(name=layer["name"], active=layer["active"], detail=layer["detail"])
                    for layer in self._report.get("layers", ())
                ],
                probes=[
                    pb.SandboxProbe(name=probe["name"], blocked=probe["blocked"], detail=probe["detail"])
                    for probe in self._report.get("probes", ())
                ],
                strict=self._strict,
                checked_at=self._checked_at,
            ),
        )


def _missing(report: dict[str, Any]) -> str:
    layers = [layer["name"] for layer in report["layers"] if layer["required"] and not layer["active"]]
    open_ways = [probe["name"] for probe in report["probes"] if not probe["blocked"]]
    parts = [f"missing layers: {', '.join(layers)}"] if layers else []
    parts += [f"the sandbox does not stop: {', '.join(open_ways)}"] if open_ways else []
    return "; ".join(parts)
