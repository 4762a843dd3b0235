"""Clients that hold a connection without finishing their request, or without taking the answer, lose it.

uvicorn waits for the rest of a request for ever, so that few machines could keep every connection busy.
"""

import asyncio
import socket
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from oprime_gateway.problems import problem


class TimedProtocol(H11Protocol):
    """Waits `timeout_s` for the head of a request, and as long again for its body: however they come, whole or a byte at a time."""

    def __init__(self, *arguments: Any, timeout_s: float, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._timeout_s = timeout_s
        self._waiting_for: object = None
        """The client's state in h11 that the timer runs for."""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().connection_made(transport)
        self._look()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def _look(self) -> None:
        """A timer runs while a head or a body is to come, from the moment at which that began."""
        state: object = self.conn.their_state
        wanted = state if state in (h11.IDLE, h11.SEND_BODY) and not self.transport.is_closing() else None
        if wanted is self._waiting_for:
            return
        self._stop()
        if wanted is not None:
            self._waiting_for = wanted
            self._timer = self.loop.call_later(self._timeout_s, self._give_up)

    def _stop(self) -> None:
        self._waiting_for = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        if self.transport.is_closing():
            return
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._say_why()
        self.transport.close()

    def _say_why(self) -> None:
        detail = f"the request did not arrive within {self._timeout_s:g} s (gateway.client_timeout_s): send it faster, or less of it"
        answer = problem(HTTPStatus.REQUEST_TIMEOUT, detail, headers={"connection": "close"})
        for event in (
            h11.Response(status_code=answer.status_code, headers=answer.raw_headers),
            h11.Data(data=bytes(answer.body)),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")


def drop_those_who_do_not_read(listener: socket.socket, timeout_s: float) -> None:
    """Connections of `listener` end when a client takes nothing of an answer for that long; the kernel sees to it (Linux)."""
    option: int | None = getattr(socket, "TCP_USER_TIMEOUT", None)
    if option is not None:
        listener.setsockopt(socket.IPPROTO_TCP, option, max(1, round(1000 * timeout_s)))
