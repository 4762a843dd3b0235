"""Composition root of the gateway."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import structlog
import uvicorn

from oprime.adapters.prometheus_metrics import PrometheusMetrics
from oprime.runtime.errors import SettingsError
from oprime.runtime.process import Lifecycle
from oprime_gateway.api import Gateway, build_api
from oprime_gateway.auth import load_keys
from oprime_gateway.config import GatewaySettings
from oprime_gateway.services import Services

log = structlog.get_logger()

SERVICES = ("coordinator", "generator", "verifier", "prm", "learner")
GRACE_S = 5
BACKLOG = 512


class HttpServer(uvicorn.Server):
    """Leaves signals to the lifecycle."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(settings: GatewaySettings, lifecycle: Lifecycle) -> None:
    address = settings.endpoints.listen("gateway")
    keys = load_keys(settings.gateway.api_keys_file, address)
    listener = listen(address)
    addresses = {name: getattr(settings.endpoints, name) for name in SERVICES}
    services = Services.open(addresses, timeout_s=settings.gateway.timeout_s)
    api = build_api(Gateway(settings=settings, services=services, metrics=PrometheusMetrics(), keys=keys))
    config = uvicorn.Config(api, log_config=None, access_log=False, lifespan="off", server_header=False, timeout_graceful_shutdown=GRACE_S)
    server = HttpServer(config)
    try:
        log.info("listening", address=address, port=listener.getsockname()[1], keys=len(keys))
        await _run(server, listener, lifecycle.stopping)
    finally:
        listener.close()
        await services.close()


def listen(address: str) -> socket.socket:
    """A listening socket. Raises SettingsError when the address cannot be used."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        return socket.create_server((host, int(port)), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=BACKLOG)
    except (OSError, ValueError, OverflowError) as error:
        raise SettingsError(f"the gateway cannot listen on {address} ({error}): change endpoints.gateway or endpoints.bind") from error


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
