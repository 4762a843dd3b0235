"""Clients that ask a server on this machine again and again, each with a connection of its own, and cost next to nothing themselves.

Requests are bytes that were made before, the next one leaves where the last answer ends, and answers are kept as they came: nobody reads
them while time is taken. A third of the work of asyncio's streams.
"""

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

from oprime.runtime.fast_loop import fast_loop

END_OF_HEAD = b"\r\n\r\n"
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
OK = b"HTTP/1.1 200"


@dataclass(slots=True)
class Answers:
    """What came back."""

    latencies_s: list[float] = field(default_factory=list)
    """Of each request."""
    bodies: dict[int, bytes] = field(default_factory=dict)
    """The last answer to each request, by its place."""
    took_s: float = 0.0
    """From the first request to the last answer."""

    @property
    def per_second(self) -> float:
        return len(self.latencies_s) / self.took_s


def post(path: str, body: bytes) -> bytes:
    """A request as it goes over the wire."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def ask(port: int, requests: Sequence[bytes], *, clients: int, seconds: float) -> Answers:
    """Let clients ask for some seconds, each with the next request as soon as it has its answer; what is under way then is answered, too.

    The requests go round. Raises RuntimeError where an answer has another status than 200 or no length, or a connection is lost.
    """
    with asyncio.Runner(loop_factory=fast_loop()) as runner:
        return runner.run(_ask(port, requests, clients, seconds))


async def _ask(port: int, requests: Sequence[bytes], clients: int, seconds: float) -> Answers:
    loop, answers, turn = asyncio.get_running_loop(), Answers(), 0

    def next_place() -> int:
        nonlocal turn
        turn += 1
        return (turn - 1) % len(requests)

    connected = [await loop.create_connection(lambda: _Client(requests, next_place, answers), "127.0.0.1", port) for _ in range(clients)]
    began = time.perf_counter()
    try:
        await asyncio.gather(*(client.start(began + seconds) for _, client in connected))
    finally:
        for transport, _ in connected:
            transport.close()
    answers.took_s = time.perf_counter() - began
    return answers


class _Client(asyncio.Protocol):
    """One connection, on which one request at a time is under way."""

    def __init__(self, requests: Sequence[bytes], next_place: Callable[[], int], answers: Answers) -> None:
        self._requests, self._next_place, self._answers = requests, next_place, answers
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._parts: list[bytes] = []
        self._missing: int | None = None
        """Bytes of the answer that are yet to come, once its head has said how many there are."""

    def start(self, until: float) -> asyncio.Future[None]:
        """Ask from now on; the future ends with the last answer."""
        self._until = until
        self._send()
        return self._ended

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"the server closed a connection ({exc or 'end of file'})")

    def data_received(self, data: bytes) -> None:
        self._parts.append(data)
        if self._missing is None:
            self._read_head()
        else:
            self._missing -= len(data)
        if self._missing == 0:
            self._note()

    def _send(self) -> None:
        self._place, self._missing = self._next_place(), None
        self._parts.clear()
        self._sent = time.perf_counter()
        self._transport.write(self._requests[self._place])

    def _read_head(self) -> None:
        answer = b"".join(self._parts)
        head, end, body = answer.partition(END_OF_HEAD)
        if not end:
            return
        length = LENGTH.search(head)
        if length is None or not head.startswith(OK):
            self._fail(f"an answer begins with {head[:200]!r}, and not with status 200 and a length: {body[:500]!r}")
            return
        self._parts[:] = [body]
        self._missing = int(length[1]) - len(body)

    def _note(self) -> None:
        now = time.perf_counter()
        self._answers.latencies_s.append(now - self._sent)
        self._answers.bodies[self._place] = b"".join(self._parts)
        if now < self._until:
            self._send()
        elif not self._ended.done():
            self._ended.set_result(None)

    def _fail(self, why: str) -> None:
        if not self._ended.done():
            self._ended.set_exception(RuntimeError(why))
