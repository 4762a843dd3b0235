"""What becomes of clients that are slow on purpose, spoken to through raw sockets."""

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from fastapi import FastAPI, Request, Response

from oprime_gateway.app import HttpServer, http_config, listen

TIMEOUT_S = 1.0
LATEST_S = 6.0
LARGE = 64 * 2**20
HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"
PLAIN = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Awaitable[Connection]]


def api() -> FastAPI:
    app = FastAPI()

    @app.get("/")
    async def small() -> str:
        return "ok"

    @app.post("/")
    async def read(request: Request) -> int:
        return len(await request.body())

    @app.post("/unread")
    async def unread() -> str:
        return "ok"

    @app.get("/large")
    async def large() -> Response:
        return Response(bytes(LARGE))

    return app


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    listener = listen("127.0.0.1:0", TIMEOUT_S)
    server = HttpServer(http_config(api(), TIMEOUT_S))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    opened: list[Connection] = []

    async def made() -> Connection:
        opened.append(await asyncio.open_connection(*listener.getsockname()))
        return opened[-1]

    yield made
    for _, writer in opened:
        writer.close()
    server.should_exit = True
    await serving
    listener.close()


@asynccontextmanager
async def dripping(writer: asyncio.StreamWriter, piece: bytes) -> AsyncIterator[None]:
    """Send that piece again and again, far more often than the time-out."""

    async def drip() -> None:
        while True:
            writer.write(piece)
            await asyncio.sleep(TIMEOUT_S / 10)

    task = asyncio.create_task(drip())
    try:
        yield
    finally:
        task.cancel()


async def rest(reader: asyncio.StreamReader) -> tuple[bytes, float]:
    """All that comes until the server closes the connection, and the seconds until then."""
    began = time.monotonic()
    async with asyncio.timeout(LATEST_S):
        try:
            said = await reader.read()
        except ConnectionResetError:
            said = b""
    return said, time.monotonic() - began


def is_timeout(said: bytes) -> bool:
    head, _, body = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert b"application/problem+json" in head
    return "gateway.client_timeout_s" in json.loads(body)["detail"]


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\n", HEAD, HEAD + b"x"], ids=["nothing", "half a head", "a head", "half a body"])
async def test_a_request_that_stops_is_answered_408_and_cut_off(connect: Connect, begun: bytes) -> None:
    reader, writer = await connect()
    writer.write(begun)
    said, seconds = await rest(reader)
    assert is_timeout(said)
    assert seconds > 0.9 * TIMEOUT_S


@pytest.mark.parametrize(
    ("begun", "piece"), [(b"GET / HTTP/1.1\r\n", b"X-A: b\r\n"), (HEAD, b"x")], ids=["a header at a time", "a byte at a time"]
)
async def test_pieces_in_time_win_no_time_for_the_whole(connect: Connect, begun: bytes, piece: bytes) -> None:
    reader, writer = await connect()
    writer.write(begun)
    async with dripping(writer, piece):
        said, _ = await rest(reader)
    # What the client sends after the answer may reset the connection before the answer is read.
    assert said == b"" or is_timeout(said)


@pytest.mark.parametrize(
    ("begun", "piece"),
    [
        (b"GET / HTTP/1.1\r\nX-A: ", b"a" * 10_000),
        (b"GET / HTTP/1.1\r\n", b"X-A: b\r\n" * 1000),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n", b"X-A: b\r\n" * 1000),
    ],
    ids=["one header", "many headers", "trailers"],
)
async def test_a_head_without_an_end_is_answered_431_before_it_fills_the_memory(connect: Connect, begun: bytes, piece: bytes) -> None:
    reader, writer = await connect()
    writer.write(begun)
    sent = 0
    with contextlib.suppress(ConnectionError):
        while sent < LARGE and not writer.is_closing():
            writer.write(piece)
            sent += len(piece)
            await writer.drain()
    said, _ = await rest(reader)
    assert said == b"" or said.startswith(b"HTTP/1.1 431 ")
    assert sent < LARGE


async def test_a_long_body_in_many_pieces_is_no_long_head(connect: Connect) -> None:
    reader, writer = await connect()
    writer.write(HEAD)
    for _ in range(10):
        writer.write(b"x" * 100_000)
        await writer.drain()
    assert (await reader.readuntil(b"1000000")).startswith(b"HTTP/1.1 200 ")


async def test_requests_that_come_at_once_are_answered_in_order(connect: Connect) -> None:
    reader, writer = await connect()
    writer.write(PLAIN + HEAD.replace(b"1000000", b"3") + b"abc" + PLAIN)
    for answer in (b'"ok"', b"3", b'"ok"'):
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        assert await reader.readexactly(len(answer)) == answer


async def test_a_body_that_nobody_reads_holds_no_connection_either(connect: Connect) -> None:
    reader, writer = await connect()
    writer.write(HEAD.replace(b"POST /", b"POST /unread"))
    async with dripping(writer, b"x"):
        said, _ = await rest(reader)
    assert said == b"" or said.startswith(b"HTTP/1.1 200 ")


async def test_a_second_request_must_come_in_time_as_the_first(connect: Connect) -> None:
    reader, writer = await connect()
    writer.write(PLAIN)
    assert (await reader.readuntil(b'"ok"')).startswith(b"HTTP/1.1 200 ")
    async with dripping(writer, b"G"):
        await rest(reader)


async def test_requests_that_come_in_time_are_answered_however_long_the_connection_lives(connect: Connect) -> None:
    reader, writer = await connect()
    for _ in range(4):
        writer.write(HEAD.replace(b"1000000", b"4") + b"ab")
        await asyncio.sleep(TIMEOUT_S / 2)
        writer.write(b"cd")
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert await reader.readexactly(1) == b"4"


async def test_a_client_that_does_not_read_its_answer_loses_the_connection(connect: Connect) -> None:
    reader, writer = await connect()
    writer.write(PLAIN.replace(b"GET /", b"GET /large"))
    # The reader takes what fits into its buffer, and then no more until it is asked.
    await asyncio.sleep(4 * TIMEOUT_S)
    said, _ = await rest(reader)
    assert len(said) < LARGE


def test_a_connection_that_is_kept_holds_no_answer_back_until_the_one_before_is_acknowledged() -> None:
    with listen("127.0.0.1:0", TIMEOUT_S) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
