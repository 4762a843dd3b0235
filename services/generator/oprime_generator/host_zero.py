"""A generator over several hosts, as one of its other hosts sees it: it joins host 0, does what that asks for, and ends with it."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any, Protocol

import structlog

from oprime.ports import WeightVersion
from oprime.runtime.errors import OprimeError, SettingsError
from oprime.runtime.rank_launcher import LEFT_BEHIND_S, LOOK_EVERY_S, SAY_EVERY_S, Hosts
from oprime_generator.host_line import HostLine, LineBrokenError, Message
from oprime_generator.other_hosts import Copy

log = structlog.get_logger()


class Workers(Protocol):
    """This host's part of the engine."""

    @property
    def agreed(self) -> Mapping[str, Any]:
        """What must be the same on all hosts."""
        ...

    async def start(self, port: int) -> None:
        """Meet those of the other hosts at this port of host 0."""
        ...

    async def watch(self) -> None:
        """Return never; raise SamplerDiedError when one of them ends."""
        ...


class HostZero:
    """The line to host 0. Use it inside one event loop."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts
        self._line: HostLine | None = None

    async def join(self, arguments: Mapping[str, Any]) -> int:
        """Wait for host 0 and for all others; the port at which the engine's workers meet. Raises SettingsError when it is refused."""
        said = float("-inf")
        while True:
            answer = await self._ask(arguments)
            if answer is not None and "meet" in answer:
                return int(answer["meet"])
            if answer is not None and "refused" in answer:
                raise SettingsError(f"host 0 refuses this host: {answer['refused']}")
            if time.monotonic() > said + SAY_EVERY_S:
                said = time.monotonic()
                log.info("waiting_for_host_0", address=f"{self._hosts.host}:{self._hosts.port}", host=self._hosts.index)
            await asyncio.sleep(LOOK_EVERY_S)

    async def obey(self, fetch: Callable[[int], WeightVersion]) -> None:
        """Fetch the versions that host 0 asks for, until it says that it ends. Raises OprimeError when it is gone."""
        line = self._joined
        while True:
            try:
                message = await line.receive()
            except LineBrokenError as error:
                raise OprimeError(f"host 0 of this generator is gone: {error}; start all of its hosts again") from error
            if "end" in message:
                return
            if "fetch" in message:
                await line.send(await _fetched(fetch, int(message["fetch"])))

    async def say_failed(self, reason: str) -> None:
        """Tell host 0 why this host ends."""
        with suppress(LineBrokenError):
            await self._joined.send({"failed": reason})

    async def close(self) -> None:
        if self._line is not None:
            await self._line.close()

    @property
    def _joined(self) -> HostLine:
        if self._line is None:
            raise OprimeError("this host has not joined host 0 yet")
        return self._line

    async def _ask(self, arguments: Mapping[str, Any]) -> Message | None:
        """What host 0 answers; None while it is not there, or goes away before all hosts have joined."""
        await self.close()
        self._line = None
        try:
            reader, writer = await asyncio.open_connection(self._hosts.host, self._hosts.port)
        except OSError:
            return None
        self._line = HostLine(reader, writer)
        try:
            await self._line.send({"host": self._hosts.index, "arguments": dict(arguments)})
            return await self._line.receive()
        except LineBrokenError:
            return None


async def work_for(
    host_0: HostZero,
    workers: Workers,
    fetch: Callable[[int], WeightVersion],
    *,
    stopping: asyncio.Event,
    note_ready: Callable[[bool], None],
) -> None:
    """Run workers until host 0 ends, or, once `stopping` is set, for as long as host 0 may need to end, too.

    Raises SettingsError when host 0 refuses this host or vLLM cannot start, SamplerDiedError when a worker ends, and OprimeError when
    host 0 is gone.
    """
    port = await _unless(stopping, host_0.join(workers.agreed))
    if port is None:
        return
    work = [
        asyncio.create_task(host_0.obey(fetch)),
        asyncio.create_task(_run(workers, port, note_ready)),
        asyncio.create_task(_leave(stopping)),
    ]
    try:
        done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    except OprimeError as error:
        await host_0.say_failed(str(error))
        raise
    finally:
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)


async def _unless(stopping: asyncio.Event, work: Coroutine[Any, Any, int]) -> int | None:
    """The result of `work`, given up once `stopping` is set."""
    task, stop = asyncio.create_task(work), asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait([task, stop], return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()
        stop.cancel()
        await asyncio.gather(task, stop, return_exceptions=True)


async def _run(workers: Workers, port: int, note_ready: Callable[[bool], None]) -> None:
    await workers.start(port)
    note_ready(True)
    await workers.watch()


async def _leave(stopping: asyncio.Event) -> None:
    """All hosts of a service are stopped together: whoever hears of it first must not break the work of the others."""
    await stopping.wait()
    await asyncio.sleep(LEFT_BEHIND_S)


async def _fetched(fetch: Callable[[int], WeightVersion], version: int) -> Message:
    try:
        copy = Copy.of((await asyncio.to_thread(fetch, version)).directory)
    except OprimeError as error:
        return {"fetch": version, "reason": str(error)}
    return {"fetch": version, "directory": str(copy.directory), "checksum": copy.checksum}
