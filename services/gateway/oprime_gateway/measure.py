"""Counts, times and spans of HTTP requests, by route."""

import time
from typing import Protocol

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from oprime.ports import Metrics
from oprime.runtime.tracing import HEADER, span

UNTRACED = frozenset({"/healthz", "/readyz", "/metrics"})
"""Asked every few seconds, by machines."""


class Scrape(Metrics, Protocol):
    """Metrics that can be read as a page."""

    def render(self) -> tuple[bytes, str]: ...


class MeasureRequests:
    """Routes are named by their template, so that their number is bounded."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, started = 500, time.perf_counter()

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with span(f"HTTP {scope['method']}", kind="server", parent=_parent(scope)) as traced:
            try:
                await self._app(scope, receive, noted)
            finally:
                route = getattr(scope.get("route"), "path", "unmatched")
                traced.note(route=route, status=status)
                self._measure(route, status, time.perf_counter() - started)

    def _measure(self, route: str, status: int, seconds: float) -> None:
        self._metrics.count("http_requests_total", route=route, status=str(status))
        self._metrics.observe("http_request_seconds", seconds, route=route)


def _parent(scope: Scope) -> str | None:
    """What the caller says of its own trace; None begins one, and an empty one is none."""
    return "" if scope["path"] in UNTRACED else Headers(scope=scope).get(HEADER)
