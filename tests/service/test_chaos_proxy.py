"""The breakable way to Redis, in front of a server that answers every line with `done LINE`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from chaos.proxy import Link, Mode, subject_of

WAIT_S = 5.0
COMMIT = b"*3\r\n$7\r\nEVALSHA\r\n$7\r\nworkers\r\n$7\r\ntrain:5\r\n"


class Server:
    """Notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await reader.read(1000):
            self.asked.append(request)
            writer.write(b"done " + request)
        writer.close()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    served = Server()
    listening = await asyncio.start_unix_server(served.serve, tmp_path / "server.sock")
    yield served
    listening.close()


@pytest.fixture
async def link(server: Server, tmp_path: Path) -> AsyncIterator[Link]:
    async with Link(lambda: tmp_path / "server.sock", seed=0) as opened:
        yield opened


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def ask(self, request: bytes) -> bytes:
        """The answer; empty when the connection ends instead, or is reset."""
        self._writer.write(request)
        with suppress(ConnectionError):
            return await asyncio.wait_for(self._reader.read(1000), WAIT_S)
        return b""


@asynccontextmanager
async def connected(link: Link) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(link.url.rpartition(":")[2]))
    yield Client(reader, writer)
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


async def ask(link: Link, request: bytes) -> bytes:
    """The answer on a connection of its own."""
    async with connected(link) as client:
        return await client.ask(request)


async def test_a_working_link_passes_requests_and_answers(link: Link) -> None:
    async with connected(link) as client:
        assert await client.ask(b"one") == b"done one"
        assert await client.ask(b"two") == b"done two"


async def test_a_cut_resets_connections_and_refuses_new_ones_until_it_ends(link: Link, server: Server) -> None:
    async with connected(link) as client:
        assert await client.ask(b"one") == b"done one"
        link.mode = Mode.CUT
        assert await client.ask(b"two") == b""
    assert await ask(link, b"three") == b""
    assert server.asked == [b"one"]
    link.mode = Mode.WORK
    assert await ask(link, b"four") == b"done four"


async def test_in_a_freeze_nothing_moves_and_afterwards_everything_arrives(link: Link, server: Server) -> None:
    link.mode = Mode.FREEZE
    asking = asyncio.create_task(ask(link, b"late"))
    await asyncio.sleep(0.2)
    assert not asking.done()
    assert server.asked == []
    link.mode = Mode.WORK
    assert await asking == b"done late"


async def test_a_request_whose_answer_is_lost_took_effect(link: Link, server: Server) -> None:
    link.mode = Mode.LOSE_ANSWERS
    answers = [await ask(link, COMMIT) for _ in range(20)]
    assert server.asked == [COMMIT] * 20
    lost = answers.count(b"")
    # 12 of 20 on average.
    assert 5 <= lost < 20
    assert link.lost == ["train:5"] * lost
    assert [answer for answer in answers if answer] == [b"done " + COMMIT] * (20 - lost)


async def test_setting_up_a_connection_is_never_lost(link: Link) -> None:
    link.mode = Mode.LOSE_ANSWERS
    greeting = b"*4\r\n$6\r\nCLIENT\r\n$7\r\nSETINFO\r\n$8\r\nLIB-NAME\r\n$8\r\nredis-py\r\n"
    assert [await ask(link, greeting) for _ in range(20)] == [b"done " + greeting] * 20


async def test_a_link_to_a_server_that_is_down_ends_connections(tmp_path: Path) -> None:
    async with Link(lambda: tmp_path / "nothing.sock", seed=0) as link:
        assert await ask(link, b"one") == b""


@pytest.mark.parametrize(
    ("request_bytes", "subject"),
    [
        (COMMIT, "train:5"),
        (b"*2\r\n$10\r\nXREADGROUP\r\n$5\r\nGROUP\r\n$7\r\nworkers\r\n$3\r\nprm\r\n", "prm"),
        (b"*4\r\n$4\r\nHSET\r\n$3\r\nkey\r\n$4\r\nname\r\n$1\r\nv\r\n", "HSET"),
        (b"*1\r\n$4\r\nping\r\n", None),
        (b"rest of a long request", "?"),
    ],
)
def test_the_log_says_what_a_request_was_about(request_bytes: bytes, subject: str | None) -> None:
    assert subject_of(request_bytes) == subject
