"""The processes of a run as a container platform keeps them: whatever ends is started again."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import unquote

from chaos.faults import EVERYTHING, REDIS, VERIFIER_WORKERS
from chaos.proxy import Link
from oprime.adapters.local_redis import LocalRedis
from oprime.runtime.setting_rules import SERVICES
from oprime_cli.files import write_toml
from oprime_cli.run_config import RunConfig
from oprime_cli.running.devices import Devices
from oprime_cli.running.failures import ServiceDiedError
from oprime_cli.running.processes import family, start_ticks
from oprime_cli.running.run_folder import RunFolder, to_document
from oprime_cli.running.services import service_specs
from oprime_cli.running.supervisor import Guard, ProcessSpec, Supervisor

LOOK_EVERY_S = 0.1
START_AGAIN_S = 1.0
"""After which a service that ended by itself is started again."""


class Keeper:
    """Starts Redis and the services, each with a link to Redis of its own, and starts again what ends. Make one with `kept`."""

    def __init__(self, folder: RunFolder, specs: dict[str, ProcessSpec], links: dict[str, Link], guard: Guard, redis: "KeptRedis") -> None:
        self.links = links
        self.redis = redis
        self.ended_by_themselves: list[str] = []
        """Services that ended although nobody killed them, with what their logs say."""
        self._folder = folder
        self._specs = specs
        self._guard = guard
        self._running: dict[str, Supervisor] = {}
        self._start_at = dict.fromkeys(specs, 0.0)
        """When a process that is down is started: Redis too, once it was killed."""

    async def watch(self) -> None:
        """Start what is due, for ever."""
        while True:
            self._look()
            await asyncio.sleep(LOOK_EVERY_S)

    def kill(self, victim: str, down_s: float) -> bool:
        """SIGKILL; start again after `down_s`. False if it is down already."""
        if victim == VERIFIER_WORKERS:
            return self._kill_workers()
        victims = [name for name in (*self._specs, REDIS) if victim in (name, EVERYTHING) and name not in self._start_at]
        for name in victims:
            if name == REDIS:
                self.redis.kill()
            else:
                os.kill(self._pid(name), signal.SIGKILL)
            self._start_at[name] = time.monotonic() + down_s
        return bool(victims)

    def _kill_workers(self) -> bool:
        """SIGKILL to every process below the verifier."""
        if "verifier" in self._start_at:
            return False
        verifier = self._pid("verifier")
        workers = [pid for pid in family({verifier: start_ticks(verifier) or 0}) if pid != verifier]
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return bool(workers)

    def _pid(self, name: str) -> int:
        return self._running[name].pids()[name]

    def _look(self) -> None:
        for name in [name for name in self._running if name not in self._start_at]:
            try:
                self._running[name].check()
            except ServiceDiedError as error:
                self.ended_by_themselves.append(str(error))
                self._start_at[name] = time.monotonic() + START_AGAIN_S
        for name in [name for name, due in self._start_at.items() if due <= time.monotonic()]:
            del self._start_at[name]
            self._start(name)

    def _start(self, name: str) -> None:
        if name == REDIS:
            self.redis.start()
            return
        if name in self._running:
            self._reap(name)
        self._running[name] = Supervisor([self._specs[name]], guard=self._guard, logs=self._folder.logs)
        self._running[name].start()

    def _reap(self, name: str) -> None:
        with contextlib.suppress(ServiceDiedError):
            self._running[name].check()

    def ensure_redis(self) -> None:
        """Start Redis now if it is down."""
        if self._start_at.pop(REDIS, None) is not None:
            self.redis.start()

    def unhealthy(self) -> list[str]:
        """Services that do not answer or say that they are not ready."""
        return [name for name, spec in self._specs.items() if not spec.health()]

    def stop(self) -> None:
        """Kill what runs; the guard ends what that leaves behind."""
        for name in self._running:
            if name not in self._start_at:
                os.kill(self._pid(name), signal.SIGKILL)
        time.sleep(LOOK_EVERY_S)
        for name in self._running:
            self._reap(name)


class KeptRedis:
    """A Redis with its append-only file in the run's folder."""

    def __init__(self, folder: RunFolder, guard: Guard) -> None:
        self._folder = folder
        self._guard = guard
        self.start()

    def start(self) -> None:
        self._server = LocalRedis.start(self._folder.redis, log_file=self._folder.logs / "redis.log")
        self._guard.watch(self._server.pid)

    def kill(self) -> None:
        self._server.kill()

    def stop(self) -> None:
        self._server.stop()

    @property
    def url(self) -> str:
        """The way around the links."""
        return self._server.url

    def socket(self) -> Path:
        return Path(unquote(self._server.url.removeprefix("unix://")))


@contextlib.asynccontextmanager
async def kept(folder: RunFolder, config: RunConfig, *, seed: int) -> AsyncIterator[Keeper]:
    """A run whose processes are kept for the length of the block; nothing survives it. `seed` is for the links."""
    folder.logs.mkdir(parents=True)
    async with contextlib.AsyncExitStack() as stack:
        guard = stack.enter_context(Guard())
        redis = KeptRedis(folder, guard)
        stack.callback(redis.stop)
        links = {service: await stack.enter_async_context(Link(redis.socket, seed=seed)) for service in SERVICES}
        specs = {service: _spec(folder, config, service, links[service].url) for service in SERVICES}
        keeper = Keeper(folder, specs, links, guard, redis)
        stack.callback(keeper.stop)
        yield keeper


def _spec(folder: RunFolder, config: RunConfig, service: str, url: str) -> ProcessSpec:
    """One service's process, whose settings name its own link."""
    own = config.model_copy(update={"queue": config.queue.model_copy(update={"url": url})})
    file = folder.path / f"config.{service}.toml"
    write_toml(file, to_document(own))
    return next(spec for spec in service_specs(own, file, Devices(), serve_only=False) if spec.name == service)
