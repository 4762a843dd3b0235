"""Counts and times of HTTP requests, by route."""

import time
from typing import Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from oprime.ports import Metrics


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

        try:
            await self._app(scope, receive, noted)
        finally:
            route = getattr(scope.get("route"), "path", "unmatched")
            self._metrics.count("http_requests_total", route=route, status=str(status))
            self._metrics.observe("http_request_seconds", time.perf_counter() - started, route=route)
