"""Brings a run's services up in its folder and takes them down again."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from oprime.runtime.errors import OprimeError, QueueUnavailableError, SettingsError
from oprime.runtime.free_ports import held_all, reserve_port
from oprime.runtime.setting_rules import SERVICES, services_of, split_address
from oprime.runtime.settings import EndpointsSection
from oprime_cli.files import write_json
from oprime_cli.run_config import RunConfig
from oprime_cli.running.devices import assign, find_gpus
from oprime_cli.running.health import reachable
from oprime_cli.running.payload_audit import sweep_payloads
from oprime_cli.running.redis_server import RunRedis, run_redis
from oprime_cli.running.run_folder import RunFolder
from oprime_cli.running.scrape import metrics_ports, scrape_targets
from oprime_cli.running.services import scorers_of, service_specs
from oprime_cli.running.supervisor import Guard, Supervisor

LOOPBACK = "127.0.0.1"


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
    at_rest: Callable[[RunConfig], None] | None = None,
) -> Iterator[Launched]:
    """All services of a run, healthy, for the length of the block. Redis stops last, and nothing survives.

    When the services have stopped, what they left behind is dropped. Then, after a block that went to its end, `at_rest` is called, while
    Redis is still there.

    Raises SettingsError, ServiceDiedError or ServiceNotHealthyError. The caller holds the run's lock.
    """
    with Guard() as guard, run_redis(folder, config, guard) as redis, free_ports(config.endpoints, scorers_of(config)) as endpoints:
        queue = config.queue.model_copy(update={"url": redis.url})
        resolved = config.model_copy(update={"endpoints": endpoints, "queue": queue})
        folder.note_session(config, resolved)
        devices = assign(resolved, find_gpus())
        if devices is None:
            raise SettingsError("the GPUs do not suffice for generator.tensor_parallel, prm.ranks and learner.ranks; try --dry-run")
        specs = service_specs(resolved, folder.config, devices, serve_only=serve_only)
        with held_all(ports_of(resolved)), swept_at_rest(resolved), Supervisor(specs, guard=guard, logs=folder.logs) as supervisor:
            supervisor.start()
            if resolved.endpoints.metrics_port:
                write_json(folder.scrape, scrape_targets(resolved))

            def ticking(waiting: set[str]) -> None:
                redis.check()
                if tick is not None:
                    tick(waiting)

            supervisor.wait_healthy(timeout_s=timeout_s, tick=ticking)
            yield Launched(folder, resolved, supervisor, redis)
        folder.scrape.unlink(missing_ok=True)
        if at_rest is not None:
            at_rest(resolved)


def ports_of(config: RunConfig) -> Iterator[tuple[str, str, str]]:
    """Where the services of a run will listen, with the setting that says so and what to do where others have that address."""
    endpoints, other = config.endpoints, "free it, or choose another port, or port 0 for a free one"
    for service in services_of(config.algorithm):
        yield endpoints.listen(service), f"endpoints.{service}", other
    for address in endpoints.scorers[: scorers_of(config)]:
        yield endpoints.listen_at(address), "endpoints.scorers", other
    for port in metrics_ports(config).values():
        yield f"{endpoints.metrics_interface}:{port}", "endpoints.metrics_port", "choose another endpoints.metrics_port, or 0 for none"


@contextlib.contextmanager
def swept_at_rest(config: RunConfig) -> Iterator[None]:
    """Drop what nobody needs when all services have stopped, however the block ends: what workers wrote after the coordinator's last look,
    and what a session before left that was killed. Where Redis is away, the next session finds it."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(OprimeError):
            asyncio.run(sweep_payloads(config))
        raise
    with contextlib.suppress(QueueUnavailableError):
        asyncio.run(sweep_payloads(config))


@contextlib.contextmanager
def free_ports(endpoints: EndpointsSection, scorers: int = 0) -> Iterator[EndpointsSection]:
    """The endpoints with a free port for every port 0, and for each of `scorers` replicas without an address.

    For the length of the block nobody else is given these ports.
    """
    addresses: dict[str, object] = {}
    with contextlib.ExitStack() as kept:
        for service in SERVICES:
            setting = f"endpoints.{service}"
            host, port = split_address(getattr(endpoints, service), setting)
            if port == 0:
                keeper = kept.enter_context(_reserve(endpoints.bind or host, setting))
                addresses[service] = f"{host}:{keeper.getsockname()[1]}"
        if endpoints.scorers and len(endpoints.scorers) < scorers:
            raise SettingsError(
                f"endpoints.scorers names {len(endpoints.scorers)} address for scoring.replicas = {scorers} on one machine: name one for "
                "each, or none"
            )
        if not endpoints.scorers:
            keepers = [kept.enter_context(_reserve(endpoints.bind or LOOPBACK, "endpoints.scorers")) for _ in range(scorers)]
            addresses["scorers"] = tuple(f"{LOOPBACK}:{keeper.getsockname()[1]}" for keeper in keepers)
        yield endpoints.model_copy(update=addresses)


def _reserve(host: str, setting: str) -> socket.socket:
    try:
        return reserve_port(host)
    except OSError as error:
        raise SettingsError(f"{setting}: this machine cannot listen on {host}: {error.strerror}; use an address of this machine") from error
