"""A service's own port for those who watch it: /metrics, /healthz and /readyz.

Threads answer, so that an event loop which hangs cannot hide it. Alive and ready are two questions: a process that is not
alive should be started again, one that is not ready (it loads a model, it waits for its turn) should be waited for.
"""

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET, AF_INET6
from threading import Thread
from typing import TypeVar

from oprime.runtime.errors import SettingsError

AnswerT = TypeVar("AnswerT")

ANSWER_S = 5.0
"""An event loop that takes longer to answer hangs."""
REQUEST_S = 10.0
"""How long a client may take over its request."""

Page = tuple[HTTPStatus, str, bytes]
"""Status, content type, body."""


class WatchPort:
    """Made and closed inside the event loop that it asks."""

    def __init__(
        self, interface: str, port: int, *, metrics: Callable[[], tuple[bytes, str]], ready: Callable[[], Awaitable[bool]]
    ) -> None:
        """Listen at once; port 0 takes a free one. `metrics` gives a page and its content type, `ready` says whether the service can
        do its work. Raises SettingsError when the port is taken."""
        self._loop = asyncio.get_running_loop()
        self._metrics = metrics
        self._ready = ready
        host = interface.strip("[]")
        try:
            self._server = _Server(host, port, self._page)
        except OSError as error:
            raise SettingsError(
                f"endpoints.metrics_port ({port}) cannot be used on {interface}: {error.strerror or error}; choose another"
            ) from error
        self._thread = Thread(target=self._server.serve_forever, name="watch-port", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _page(self, path: str) -> Page:
        if path == "/metrics":
            body, content_type = self._metrics()
            return HTTPStatus.OK, content_type, body
        if path == "/healthz":
            return _text(HTTPStatus.OK, "alive") if self._ask(_answer) else _hangs()
        if path == "/readyz":
            ready = self._ask(self._ready)
            if ready is None:
                return _hangs()
            return _text(HTTPStatus.OK, "ready") if ready else _text(HTTPStatus.SERVICE_UNAVAILABLE, "not ready")
        return _text(HTTPStatus.NOT_FOUND, "here are /metrics, /healthz and /readyz")

    def _ask(self, question: Callable[[], Awaitable[AnswerT]]) -> AnswerT | None:
        """The event loop's answer; None if none comes in time."""

        async def answer() -> AnswerT:
            return await question()

        if self._loop.is_closed():
            return None
        asked = asyncio.run_coroutine_threadsafe(answer(), self._loop)
        try:
            return asked.result(ANSWER_S)
        except TimeoutError:
            asked.cancel()
            return None


async def _answer() -> bool:
    return True


def _text(status: HTTPStatus, text: str) -> Page:
    return status, "text/plain; charset=utf-8", f"{text}\n".encode()


def _hangs() -> Page:
    return _text(HTTPStatus.SERVICE_UNAVAILABLE, f"the event loop has not answered for {ANSWER_S:g} s")


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, host: str, port: int, page: Callable[[str], Page]) -> None:
        self.address_family = AF_INET6 if ":" in host else AF_INET
        self.page = page
        super().__init__((host, port), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away in the middle is no event."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = REQUEST_S

    def do_GET(self) -> None:
        status, content_type, body = self.server.page(self.path.partition("?")[0])
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def version_string(self) -> str:
        return "oprime"

    def log_message(self, format: str, *args: object) -> None:
        """Scrapes are no events."""
