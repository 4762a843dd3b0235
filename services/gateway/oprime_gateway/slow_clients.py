"""Clients that hold a connection without finishing their request, or without taking the answer, lose it.

uvicorn waits for the rest of a request for ever, so that few machines could keep every connection busy, and httptools keeps a head of any
length.
"""

import asyncio
import socket
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from oprime_gateway.problems import problem

MOST_HELD_BYTES = 65_536
"""Of a head, or of what stands between the parts of a body; what comes with the read that begins it is not counted."""


class TimedProtocol(HttpToolsProtocol):
    """Waits `timeout_s` for the head of a request, and as long again for its body: however they come, whole or a byte at a time."""

    def __init__(self, *arguments: Any, timeout_s: float, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._timeout_s = timeout_s
        self._waiting_for: tuple[str, RequestResponseCycle | None] | None = None
        """The part, and the newest request that has a head by then."""
        self._timer: asyncio.TimerHandle | None = None
        self._held = 0
        """Bytes that came since the last part of a request was whole."""
        self._part_ended = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().connection_made(transport)
        self._look()

    def data_received(self, data: bytes) -> None:
        self._part_ended = False
        super().data_received(data)
        self._held = 0 if self._part_ended else self._held + len(data)
        if self._held > MOST_HELD_BYTES:
            self._refuse(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"the head of a request exceeds {MOST_HELD_BYTES} bytes: send fewer headers"
            )
        self._look()

    # What the parser calls when a part is whole.

    def on_message_begin(self) -> None:
        self._part_ended = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._part_ended = True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._part_ended = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._part_ended = True
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def _look(self) -> None:
        """A timer runs while a head or a body is to come, from the moment at which that began."""
        wanted = self._awaited()
        if wanted == self._waiting_for:
            return
        self._stop()
        if wanted is not None:
            self._waiting_for = wanted
            self._timer = self.loop.call_later(self._timeout_s, self._give_up)

    def _awaited(self) -> tuple[str, RequestResponseCycle | None] | None:
        newest = self._newest
        if self.transport.is_closing():
            return None
        if newest is None or newest.response_complete:
            return "head", newest
        return ("body", newest) if newest.more_body else None

    @property
    def _newest(self) -> RequestResponseCycle | None:
        """The newest request that has a head."""
        return self.cycle

    def _stop(self) -> None:
        self._waiting_for = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        detail = f"the request did not arrive within {self._timeout_s:g} s (gateway.client_timeout_s): send it faster, or less of it"
        self._refuse(HTTPStatus.REQUEST_TIMEOUT, detail)

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        """Close the connection, and say why unless an answer is under way on it."""
        if self.transport.is_closing():
            return
        newest = self._newest
        if not self.pipeline and (newest is None or newest.response_complete or not newest.response_started):
            answer = problem(status, detail, headers={"connection": "close"})
            head = [b"%b: %b\r\n" % header for header in answer.raw_headers]
            self.transport.write(b"".join([STATUS_LINE[status], *head, b"\r\n", bytes(answer.body)]))
        self.transport.close()


def drop_those_who_do_not_read(listener: socket.socket, timeout_s: float) -> None:
    """Connections of `listener` end when a client takes nothing of an answer for that long; the kernel sees to it (Linux)."""
    option: int | None = getattr(socket, "TCP_USER_TIMEOUT", None)
    if option is not None:
        listener.setsockopt(socket.IPPROTO_TCP, option, max(1, round(1000 * timeout_s)))
