"""Brings a run's services up in its folder and takes them down again."""

import contextlib
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from oprime.runtime.errors import SettingsError
from oprime.runtime.settings import EndpointsSection
from oprime_cli.run_config import RunConfig
from oprime_cli.running.devices import assign, find_gpus
from oprime_cli.running.health import reachable
from oprime_cli.running.redis_server import RunRedis, run_redis
from oprime_cli.running.run_folder import RunFolder
from oprime_cli.running.services import SERVICES, service_specs
from oprime_cli.running.supervisor import Guard, Supervisor


@dataclass(frozen=True, slots=True)
class Launched:
    """A run whose services are healthy."""

    folder: RunFolder
    config: RunConfig
    """With real ports and the address of Redis."""
    supervisor: Supervisor
    redis: RunRedis

    def check(self) -> None:
        """Raise ServiceDiedError when a service or the run's own Redis has ended."""
        self.redis.check()
        self.supervisor.check()


def gateway_url(config: RunConfig) -> str:
    return f"http://{reachable(config.endpoints.gateway)}"


@contextlib.contextmanager
def launched(
    folder: RunFolder,
    config: RunConfig,
    *,
    timeout_s: float,
    serve_only: bool = False,
    tick: Callable[[set[str]], None] | None = None,
) -> Iterator[Launched]:
    """All services of a run, healthy, for the length of the block. Redis stops last, and nothing survives.

    Raises SettingsError, ServiceDiedError or ServiceNotHealthyError. The caller holds the run's lock.
    """
    with Guard() as guard, run_redis(folder, config, guard) as redis:
        resolved = with_real_addresses(config, redis.url)
        folder.write_config(resolved)
        devices = assign(resolved, find_gpus())
        if devices is None:
            raise SettingsError("the GPUs do not suffice for generator.tensor_parallel, prm.ranks and learner.ranks; try --dry-run")
        specs = service_specs(resolved, folder.config, devices, serve_only=serve_only)
        with Supervisor(specs, guard=guard, logs=folder.logs) as supervisor:
            supervisor.start()

            def ticking(waiting: set[str]) -> None:
                redis.check()
                if tick is not None:
                    tick(waiting)

            supervisor.wait_healthy(timeout_s=timeout_s, tick=ticking)
            yield Launched(folder, resolved, supervisor, redis)


def with_real_addresses(config: RunConfig, queue_url: str) -> RunConfig:
    """The settings with free ports for those that are 0 and with the address of Redis."""
    queue = config.queue.model_copy(update={"url": queue_url})
    return config.model_copy(update={"endpoints": with_free_ports(config.endpoints), "queue": queue})


def with_free_ports(endpoints: EndpointsSection) -> EndpointsSection:
    """Replace every port 0 by a free one; all of them are distinct."""
    addresses: dict[str, str] = {}
    with contextlib.ExitStack() as held:
        for service in SERVICES:
            host, port = split_address(getattr(endpoints, service), f"endpoints.{service}")
            if port == 0:
                # Held until all are chosen, so that no port is given twice.
                listener = held.enter_context(_listener(endpoints.bind or host, f"endpoints.{service}"))
                addresses[service] = f"{host}:{listener.getsockname()[1]}"
    return endpoints.model_copy(update=addresses)


def split_address(address: str, setting: str) -> tuple[str, int]:
    """Host and port of HOST:PORT. Raises SettingsError."""
    host, separator, port = address.rpartition(":")
    if not separator or not host or not port.isdigit() or int(port) > 65_535:
        raise SettingsError(f"{setting} = {address!r}: write HOST:PORT with a port from 0 to 65535, for example 127.0.0.1:0")
    return host, int(port)


def _listener(host: str, setting: str) -> socket.socket:
    bare = host.strip("[]")
    family = socket.AF_INET6 if ":" in bare else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.bind((bare, 0))
    except OSError as error:
        listener.close()
        raise SettingsError(f"{setting}: this machine cannot listen on {host}: {error.strerror}; use an address of this machine") from error
    return listener
