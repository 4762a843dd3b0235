"""A generator over several hosts, as host 0 sees it: who has joined, what each has fetched, and whether all are still there.

Host 0 is the generator. The others run workers of its engine and nothing else: they join here, are told where the engine's workers meet,
fetch the weight versions that host 0 asks for, and end with it. The same address, OPRIME_HOST_ADDRESS, serves for that; the engine's own
connections between hosts have ports of their own, which nobody needs to know before.
"""

import asyncio
import hashlib
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import structlog

from oprime.runtime.errors import NotReadyError, SettingsError, WeightsRefusedError
from oprime.runtime.free_ports import reserve_port
from oprime.runtime.rank_launcher import HOST_INDEX, SAY_EVERY_S, Hosts, listener
from oprime_generator.host_line import HostLine, LineBrokenError, Message
from oprime_generator.sampler import SamplerDiedError

log = structlog.get_logger()

MANIFEST = "manifest.json"
"""What makes a version exist in every store."""


@dataclass(frozen=True, slots=True)
class Copy:
    """A weight version as one host has it."""

    directory: Path
    checksum: str
    """Of its manifest, which has a checksum of every tensor."""

    @classmethod
    def of(cls, directory: Path) -> Self:
        """Raises WeightsRefusedError."""
        try:
            return cls(directory, hashlib.sha256((directory / MANIFEST).read_bytes()).hexdigest())
        except OSError as error:
            raise WeightsRefusedError(f"{directory / MANIFEST} cannot be read: {error.strerror}; publish the version again") from error


class OtherHosts:
    """Host 0's lines to the other hosts, of which there may be none. Use it inside one event loop."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts
        self._arguments: Mapping[str, Any] = {}
        self._lines: dict[int, HostLine] = {}
        self._waiting: dict[tuple[int, int], asyncio.Future[Copy]] = {}
        """By host and version: what was asked for."""
        self._changed = asyncio.Event()
        self._met = False
        self._lost = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[Any]] = set()
        """One for each line."""
        self.loss = ""
        """Why the engine cannot go on; empty while all hosts are there."""

    def __bool__(self) -> bool:
        """Whether there are any."""
        return self._hosts.count > 1

    @property
    def hosts(self) -> Hosts:
        return self._hosts

    async def meet(self, arguments: Mapping[str, Any]) -> int:
        """Wait until all other hosts have joined; the port on host 0 at which the engine's workers are to meet, which they know then.

        `arguments` are what all hosts must agree on; a host with others is sent away. Raises OprimeError when host 0 cannot listen.
        """
        self._arguments = arguments
        self._server = await asyncio.start_server(self._serve, sock=listener(self._hosts))
        while len(self._lines) < self._hosts.count - 1:
            log.info("waiting_for_hosts", joined=sorted(self._lines), of=self._hosts.count - 1)
            self._changed.clear()
            try:
                async with asyncio.timeout(SAY_EVERY_S):
                    await self._changed.wait()
            except TimeoutError:
                continue
        self._met = True
        with _free_port(self._hosts.host) as keeper:
            port = int(keeper.getsockname()[1])
        for host, line in list(self._lines.items()):
            try:
                await line.send({"meet": port})
            except LineBrokenError as error:
                self._lose(f"host {host} of this generator is gone: {error}")
        log.info("hosts_joined", hosts=self._hosts.count)
        return port

    async def fetch(self, version: int) -> tuple[Copy, ...]:
        """Let every other host make a weight version local; where each has it, in the order of hosts.

        Raises WeightsRefusedError when one cannot, SamplerDiedError when one is gone, NotReadyError before all have joined.
        """
        if self.loss:
            raise SamplerDiedError(self.loss)
        if self and not self._met:
            raise NotReadyError("not all hosts of this generator have joined yet: ask again when it is healthy")
        asked = [self._ask(host, version) for host in range(1, self._hosts.count)]
        return tuple(await asyncio.gather(*asked))

    async def watch(self) -> None:
        """Return never; raise SamplerDiedError when a host is gone."""
        await self._lost.wait()
        raise SamplerDiedError(self.loss)

    async def lost_within(self, seconds: float) -> str:
        """Why a host is gone, if that turns out within so many seconds: what its end breaks may be noticed before its end is."""
        try:
            async with asyncio.timeout(seconds):
                await self._lost.wait()
        except TimeoutError:
            return ""
        return self.loss

    async def end(self) -> None:
        """Tell the others that host 0 ends as it should, and that they should, too."""
        for line in list(self._lines.values()):
            try:
                await line.send({"end": True})
            except LineBrokenError:
                continue

    async def close(self) -> None:
        """The others end with code 1 unless `end` was called."""
        if self._server is not None:
            self._server.close()
        self._met = False
        for line in list(self._lines.values()):
            await line.close()
        for serving in self._serving:
            serving.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()

    # -- one line

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - this is one
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        line, host = HostLine(reader, writer), 0
        try:
            hello = await line.receive()
            objection = self._objection(hello)
            if objection:
                log.warning("host_refused", reason=objection)
                await line.send({"refused": objection})
                return
            host = int(hello["host"])
            self._lines[host] = line
            self._changed.set()
            while True:
                self._hear(host, await line.receive())
        except LineBrokenError as error:
            self._leave(host, str(error))
        finally:
            await line.close()

    def _objection(self, hello: Message) -> str:
        """Why a host may not join; empty if it may."""
        host = hello.get("host")
        if not isinstance(host, int) or not 0 < host < self._hosts.count:
            return f"{HOST_INDEX} = {host}: this generator has the hosts 0 to {self._hosts.count - 1}, and this one is 0"
        if host in self._lines or self._met:
            return f"host {host} has joined already: start all hosts of a generator together, each with a {HOST_INDEX} of its own"
        theirs = dict(hello.get("arguments", {}))
        different = sorted(name for name in {*self._arguments, *theirs} if self._arguments.get(name) != theirs.get(name))
        if different:
            name = different[0]
            return (
                f"host {host} has other settings than host 0: {name} = {theirs.get(name)!r} there and {self._arguments.get(name)!r} here; "
                "start all hosts with the same settings and the same version of oprime and vLLM"
            )
        return ""

    def _hear(self, host: int, message: Message) -> None:
        if "failed" in message:
            self._lose(f"host {host} of this generator has failed: {message['failed']}")
            return
        waiting = self._waiting.get((host, message.get("fetch", -1)))
        if waiting is None or waiting.done():
            return
        if "reason" in message:
            waiting.set_exception(WeightsRefusedError(f"host {host}: {message['reason']}"))
        else:
            waiting.set_result(Copy(Path(message["directory"]), message["checksum"]))

    def _leave(self, host: int, how: str) -> None:
        if self._lines.pop(host, None) is None:
            return
        self._changed.set()
        # One that goes before all have met may come again.
        if self._met:
            self._lose(f"host {host} of this generator is gone: {how}")

    def _lose(self, reason: str) -> None:
        if self.loss:
            return
        self.loss = f"{reason}; start all of its hosts again"
        self._lost.set()
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(SamplerDiedError(self.loss))

    async def _ask(self, host: int, version: int) -> Copy:
        place = (host, version)
        waiting = self._waiting.get(place)
        if waiting is None:
            waiting = self._waiting[place] = asyncio.get_running_loop().create_future()
            try:
                await self._lines[host].send({"fetch": version})
            except (KeyError, LineBrokenError) as error:
                self._lose(f"host {host} of this generator is gone: {error}")
                if not waiting.done():
                    waiting.set_exception(SamplerDiedError(self.loss))
        try:
            return await asyncio.shield(waiting)
        finally:
            if waiting.done() and self._waiting.get(place) is waiting:
                del self._waiting[place]


def _free_port(host: str) -> socket.socket:
    """Keeps a port of the address at which the others reach this machine."""
    try:
        return reserve_port(host)
    except OSError:
        return reserve_port("0.0.0.0")  # noqa: S104 - an address that another machine translates


def require_hosts(hosts: Hosts, *, backend: str, tensor_parallel: int) -> None:
    """Raise SettingsError where a generator of these settings cannot be spread over the hosts."""
    if hosts.count == 1:
        return
    if backend != "vllm":
        raise SettingsError(
            f'generator.backend = "{backend}" with OPRIME_HOSTS = {hosts.count}: only vllm spreads a model over hosts; set '
            "generator.backend=vllm, or start one generator on each host without OPRIME_HOSTS"
        )
    hosts.share(tensor_parallel, "generator.tensor_parallel")


def require_same_weights(version: int, own: Copy, others: tuple[Copy, ...]) -> None:
    """Raise WeightsRefusedError unless all hosts have the same weights under a version."""
    for host, copy in enumerate(others, start=1):
        if copy.checksum != own.checksum:
            raise WeightsRefusedError(
                f"host {host} has other weights than host 0 as version {version} ({copy.directory} there, {own.directory} here): let "
                "store.url, or run.directory, name one place that all hosts of the generator see"
            )
