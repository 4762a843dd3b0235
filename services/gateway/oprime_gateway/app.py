"""Composition root of the gateway."""

import asyncio
import contextlib
import socket
from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
import structlog
import uvicorn
from starlette.types import ASGIApp

from oprime.adapters.observed import observed
from oprime.adapters.prometheus_metrics import RUN, SERVICE, PrometheusMetrics
from oprime.runtime.errors import SettingsError
from oprime.runtime.process import Lifecycle
from oprime.runtime.run_end import ends_with_run
from oprime.runtime.setting_rules import services_of
from oprime_gateway.api import Gateway, build_api
from oprime_gateway.auth import load_keys
from oprime_gateway.config import GatewaySettings
from oprime_gateway.services import SCORER, STATUS_TIMEOUT_S, Services
from oprime_gateway.slow_clients import TimedProtocol, drop_those_who_do_not_read
from oprime_proto.v1 import coordinator_pb2

log = structlog.get_logger()

GRACE_S = 5
BACKLOG = 512


class HttpServer(uvicorn.Server):
    """Leaves signals to the lifecycle."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


async def serve(settings: GatewaySettings, lifecycle: Lifecycle) -> None:
    services: Services | None = None

    async def ready() -> bool:
        return services is not None and all((await services.ready()).values())

    with observed("gateway", settings.run.name, settings.endpoints, ready) as metrics, open_door(settings) as door:
        services = Services.open(addresses(settings), timeout_s=settings.gateway.timeout_s, tls=settings.endpoints.tls)
        ending = asyncio.create_task(_end_with_run(services, settings, lifecycle.stopping))
        try:
            await answer_requests(door, settings, services, metrics, lifecycle.stopping)
        finally:
            ending.cancel()
            await services.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """Where clients come in, and the keys that they need."""

    listener: socket.socket
    keys: tuple[str, ...]


@contextlib.contextmanager
def open_door(settings: GatewaySettings) -> Generator[Door, None, None]:
    """Listens for the length of the block. Raises SettingsError for an address or keys that cannot be used."""
    address = settings.endpoints.listen("gateway")
    keys = load_keys(settings.gateway.api_keys_file, address)
    with contextlib.closing(listen(address, settings.gateway.client_timeout_s, shared=settings.gateway.share_port)) as listener:
        yield Door(listener=listener, keys=keys)


async def answer_requests(
    door: Door, settings: GatewaySettings, services: Services, metrics: PrometheusMetrics, stopping: asyncio.Event
) -> None:
    """Answer clients until `stopping` is set."""
    of_run = partial(PrometheusMetrics, **{RUN: settings.run.name, SERVICE: "gateway"})
    api = build_api(Gateway(settings=settings, services=services, metrics=metrics, of_run=of_run, keys=door.keys))
    server = HttpServer(http_config(api, settings.gateway.client_timeout_s))
    host, port = door.listener.getsockname()[:2]
    log.info("listening", address=f"{host}:{port}", port=port, keys=len(door.keys))
    await _run(server, door.listener, stopping)


def addresses(settings: GatewaySettings) -> dict[str, str]:
    """Where the other services of the run are; those that only score as scorer-0 and so on."""
    endpoints, names = settings.endpoints, services_of(settings.algorithm)
    scorers = {f"{SCORER}-{number}": address for number, address in enumerate(endpoints.scorers)} if "prm" in names else {}
    others = () if settings.gateway.rewards_only else names
    return {**{name: getattr(endpoints, name) for name in others if name != "gateway"}, **scorers}


def http_config(api: ASGIApp, client_timeout_s: float) -> uvicorn.Config:
    protocol: Any = partial(TimedProtocol, timeout_s=client_timeout_s)
    return uvicorn.Config(
        api, http=protocol, log_config=None, access_log=False, lifespan="off", server_header=False, timeout_graceful_shutdown=GRACE_S
    )


def listen(address: str, client_timeout_s: float, *, shared: bool = False) -> socket.socket:
    """A listening socket; others that are `shared` may have the same address. Raises SettingsError when the address cannot be used."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, int(port)), family=family, backlog=BACKLOG, reuse_port=shared)
    except (OSError, ValueError, OverflowError) as error:
        raise SettingsError(f"the gateway cannot listen on {address} ({error}): change endpoints.gateway or endpoints.bind") from error
    # Connections inherit it. Without it the kernel holds an answer's last packet back until the client has acknowledged the one before,
    # which a client that keeps its connection does 40 ms later.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    drop_those_who_do_not_read(listener, client_timeout_s)
    return listener


async def _end_with_run(services: Services, settings: GatewaySettings, stopping: asyncio.Event) -> None:
    """Set `stopping` once the coordinator says that the run has finished, if the settings say so."""
    while ends_with_run(settings.run):
        with contextlib.suppress(grpc.RpcError):
            status = await services.coordinator.Status(coordinator_pb2.CoordinatorServiceStatusRequest(), timeout=STATUS_TIMEOUT_S)
            if status.state == coordinator_pb2.RUN_STATE_FINISHED:
                log.info("run_finished", steps=status.total_steps)
                stopping.set()
                return
        await asyncio.sleep(settings.run.heartbeat_s)


async def _run(server: uvicorn.Server, listener: socket.socket, stopping: asyncio.Event) -> None:
    """Serve until `stopping` is set, then let requests in flight end."""
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    stop = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({serving, stop}, return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        await serving
    finally:
        stop.cancel()
