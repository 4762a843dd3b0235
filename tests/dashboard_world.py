"""A gateway on a real port, with services that answer by rules that can be checked by hand, for tests that drive a browser."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np

from oprime.adapters.prometheus_metrics import PrometheusMetrics
from oprime.runtime.grpc_server import GrpcServer
from oprime.wire.codec import floats_to_bytes, ids_to_bytes
from oprime_gateway.api import Gateway, build_api
from oprime_gateway.app import HttpServer, http_config, listen
from oprime_gateway.config import GatewaySettings
from oprime_gateway.services import Services
from oprime_proto.v1 import coordinator_pb2, prm_pb2
from oprime_proto.v1.coordinator_pb2_grpc import CoordinatorServiceServicer, add_CoordinatorServiceServicer_to_server
from oprime_proto.v1.prm_pb2_grpc import PrmServiceServicer, add_PrmServiceServicer_to_server

BETA = 0.5
CLIENT_TIMEOUT_S = 30.0


class DigitPrm(PrmServiceServicer):
    """One token per character, then the end token. A digit d earns (d - 5) / 10, anything else 0; the reference's log-prob is -1."""

    async def Score(  # noqa: N802 - gRPC's name
        self, request: prm_pb2.ScoreRequest, context: grpc.aio.ServicerContext
    ) -> prm_pb2.ScoreResponse:
        return prm_pb2.ScoreResponse(responses=[self._scored(item.chat.response) for item in request.items], prm_version=7, beta=BETA)

    @staticmethod
    def _scored(text: str) -> prm_pb2.ScoredResponse:
        if "cannot" in text:
            return prm_pb2.ScoredResponse(error="9 tokens exceed the model's 8: shorten the text")
        rewards = np.array([*((int(one) - 5) / 10 if one in "0123456789" else 0.0 for one in text), 0.0], dtype=np.float32)
        reference = np.full(len(rewards), -1.0, dtype=np.float32)
        return prm_pb2.ScoredResponse(
            response_ids=ids_to_bytes([*(ord(one) for one in text), 0]),
            process_rewards=floats_to_bytes(rewards),
            prm_logprobs=floats_to_bytes(reference + rewards / BETA),
            reference_logprobs=floats_to_bytes(reference),
            token_texts=[*text, "<eos>"],
            char_starts=range(len(text) + 1),
            char_ends=[*range(1, len(text) + 1), len(text)],
        )


@dataclass
class ScriptedCoordinator(CoordinatorServiceServicer):
    """Says what a test wants it to say next."""

    status: coordinator_pb2.CoordinatorServiceStatusResponse = field(default_factory=lambda: training(step=60))

    async def Status(  # noqa: N802 - gRPC's name
        self, request: coordinator_pb2.CoordinatorServiceStatusRequest, context: grpc.aio.ServicerContext
    ) -> coordinator_pb2.CoordinatorServiceStatusResponse:
        return self.status


def training(*, step: int, stalled: str = "") -> coordinator_pb2.CoordinatorServiceStatusResponse:
    queue = coordinator_pb2.QueueDepth
    return coordinator_pb2.CoordinatorServiceStatusResponse(
        state=coordinator_pb2.RUN_STATE_TRAINING,
        step=step,
        total_steps=100,
        acceptance_rate=0.48,
        ledger={"issued": 1200, "trained": 900, "filtered:accuracy_high": 250, "live": 50},
        queues=[
            queue(stream="tickets", waiting=4, pending=12, oldest_seconds=1.5),
            queue(stream="rollouts", waiting=0, pending=3, oldest_seconds=0.2),
        ],
        bottleneck="generator",
        stalled=stalled,
    )


@dataclass
class Site:
    """A dashboard that a browser can open."""

    url: str
    runs: Path
    coordinator: ScriptedCoordinator


@contextmanager
def site(
    runs: Path, index: Path, *, active: str = "live", keys: tuple[str, ...] = (), services: bool = True, rewards_only: bool = False
) -> Iterator[Site]:
    """Serve the runs of a folder from a thread of its own until the end of the block."""
    coordinator = ScriptedCoordinator()
    ready, stop = threading.Event(), threading.Event()
    found: dict[str, str] = {}
    gateway = {"rewards_only": rewards_only}
    arguments = (runs, index, active, keys, coordinator if services else None, gateway, ready, stop, found)
    thread = threading.Thread(target=lambda: asyncio.run(_serve(*arguments)))
    thread.start()
    try:
        if not ready.wait(30) or "url" not in found:
            raise RuntimeError("the gateway did not start")
        yield Site(url=found["url"], runs=runs, coordinator=coordinator)
    finally:
        stop.set()
        thread.join(30)


async def _serve(
    runs: Path,
    index: Path,
    active: str,
    keys: tuple[str, ...],
    coordinator: ScriptedCoordinator | None,
    gateway_section: dict[str, bool],
    ready: threading.Event,
    stop: threading.Event,
    found: dict[str, str],
) -> None:
    servers = []
    addresses = {name: f"127.0.0.1:{port}" for port, name in enumerate(("prm", "coordinator", "verifier"), start=1)}
    if coordinator is not None:
        for name, register, servicer, service in (
            ("prm", add_PrmServiceServicer_to_server, DigitPrm(), "PrmService"),
            ("coordinator", add_CoordinatorServiceServicer_to_server, coordinator, "CoordinatorService"),
        ):
            server = GrpcServer("127.0.0.1:0")
            server.add(register, servicer, f"oprime_proto.v1.{service}")
            addresses[name] = f"127.0.0.1:{await server.start()}"
            await server.set_serving(True)
            servers.append(server)
    document = {
        "run": {"name": active, "steps": 100, "directory": str(runs)},
        "model": {"path": "models/tiny"},
        "endpoints": addresses,
        "gateway": gateway_section,
    }
    settings = GatewaySettings.from_document(document, origin="test")
    services = Services.open(addresses, timeout_s=settings.gateway.timeout_s)
    listener = listen("127.0.0.1:0", CLIENT_TIMEOUT_S)
    gateway = Gateway(
        settings=settings, services=services, metrics=PrometheusMetrics(), of_run=PrometheusMetrics, keys=keys, index_directory=index
    )
    http = HttpServer(http_config(build_api(gateway), CLIENT_TIMEOUT_S))
    serving = asyncio.create_task(http.serve(sockets=[listener]))
    found["url"] = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    ready.set()
    try:
        await asyncio.to_thread(stop.wait)
    finally:
        http.should_exit = True
        await serving
        listener.close()
        await services.close()
        await asyncio.gather(*(server.stop(0) for server in servers))
