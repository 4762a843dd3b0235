"""A way to Redis that can break: stands between one service and the server, and passes, cuts, freezes or loses answers."""

import asyncio
import random
import re
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Self

PIECE_BYTES = 65_536
SETTING_UP = (b"CLIENT", b"AUTH", b"HELLO", b"SELECT", b"PING")
"""Commands that only open a connection: were their answers lost, no work would ever get through."""
_SUBJECT = re.compile(rb"\$7\r\nworkers\r\n\$\d+\r\n([^\r\n]{1,60})\r\n")
"""What follows the consumer group's name in the queue's requests: the mark of a commit, the consumer of a read."""
COMMITS_LOST, OTHERS_LOST = 0.6, 0.2
"""Shares of answers that get lost. Whoever never hears of his reads has nothing to commit."""


class Mode(StrEnum):
    WORK = "work"
    CUT = "cut"
    """Connections are reset, and new ones as well."""
    FREEZE = "freeze"
    """Nothing moves; what waits is delivered, late, when the freeze ends."""
    LOSE_ANSWERS = "lose answers"
    """Requests take effect, but for some of them the connection ends before the answer comes."""


class Link:
    """One service's way to a server on a unix socket. Use as an async context manager."""

    def __init__(self, server: Callable[[], Path], *, seed: int) -> None:
        """`server` gives the socket's path, which may change when the server starts again; `seed` chooses the answers that get lost."""
        self._server_path = server
        self._chance = random.Random(seed)
        self._mode = Mode.WORK
        self._moving = asyncio.Event()
        self._moving.set()
        self._connections: set[_Connection] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self.lost: list[str] = []
        """What the requests whose answers were lost were about."""

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        self.mode = Mode.CUT
        await asyncio.gather(*self._serving)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"

    @property
    def mode(self) -> Mode:
        return self._mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        self._mode = mode
        if mode is Mode.FREEZE:
            self._moving.clear()
        else:
            self._moving.set()
        if mode is Mode.CUT:
            for connection in self._connections:
                connection.abort()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._mode is Mode.CUT:
            writer.transport.abort()
            return
        try:
            server_reader, server_writer = await asyncio.open_unix_connection(self._server_path())
        except OSError:
            writer.transport.abort()
            return
        connection = _Connection(reader, writer, server_reader, server_writer)
        self._connections.add(connection)
        try:
            await self._pump(connection)
        finally:
            self._connections.discard(connection)
            connection.abort()

    async def _pump(self, connection: "_Connection") -> None:
        """Pass both ways until either side ends."""
        ways = [asyncio.create_task(way) for way in (self._pass_requests(connection), self._pass_answers(connection))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _pass_requests(self, connection: "_Connection") -> None:
        with suppress(ConnectionError):
            while request := await connection.reader.read(PIECE_BYTES):
                await self._moving.wait()
                connection.asked = connection.asked or subject_of(request)
                connection.server_writer.write(request)
                await connection.server_writer.drain()

    async def _pass_answers(self, connection: "_Connection") -> None:
        with suppress(ConnectionError):
            while answer := await connection.server_reader.read(PIECE_BYTES):
                await self._moving.wait()
                if self._mode is Mode.LOSE_ANSWERS and connection.asked is not None and self._gets_lost(connection.asked):
                    self.lost.append(connection.asked)
                    return
                connection.asked = None
                connection.writer.write(answer)
                await connection.writer.drain()

    def _gets_lost(self, subject: str) -> bool:
        return self._chance.random() < (COMMITS_LOST if ":" in subject else OTHERS_LOST)


class _Connection:
    """A client's connection and the one to the server that belongs to it."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        server_reader: asyncio.StreamReader,
        server_writer: asyncio.StreamWriter,
    ) -> None:
        self.reader, self.writer = reader, writer
        self.server_reader, self.server_writer = server_reader, server_writer
        self.asked: str | None = None
        """What the request that waits for its answer is about."""

    def abort(self) -> None:
        self.writer.transport.abort()
        self.server_writer.transport.abort()


def subject_of(request: bytes) -> str | None:
    """What a request is about, for the log; None for one that only sets a connection up."""
    words = request.split(b"\r\n", 3)
    command = words[2].upper() if len(words) > 2 and request.startswith(b"*") else b"?"
    if command in SETTING_UP:
        return None
    found = _SUBJECT.search(request)
    return (found[1] if found else command).decode(errors="replace")
