"""A real HTTP server on a loopback port, whose answers each test scripts."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

Answer = Callable[[Request, Any], Awaitable[Response]]


@dataclass
class Seen:
    """One request as the server got it."""

    path: str
    headers: dict[str, str]
    body: bytes
    message: Any


@dataclass
class Server:
    """Answers each request with the next of `answers`, and the last one ever after."""

    url: str
    answers: list[Answer] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    under_way: int = 0
    most_under_way: int = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        body = await request.body()
        message = await request.json() if body else None
        self.seen.append(Seen(request.url.path, dict(request.headers), body, message))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            response = await answer(request, message)
        finally:
            self.under_way -= 1
        await response(scope, receive, send)


def says(content: Any, status: int = 200, **headers: str) -> Answer:
    async def answer(_request: Request, _message: Any) -> Response:
        return JSONResponse(content, status, {name.replace("_", "-"): value for name, value in headers.items()})

    return answer


def raw(content: bytes, status: int = 200, **headers: str) -> Answer:
    async def answer(_request: Request, _message: Any) -> Response:
        return Response(content, status, {name.replace("_", "-"): value for name, value in headers.items()})

    return answer


def slow(seconds: float, then: Answer) -> Answer:
    async def answer(request: Request, message: Any) -> Response:
        await asyncio.sleep(seconds)
        return await then(request, message)

    return answer


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    listener = socket.create_server(("127.0.0.1", 0))
    app = Server(url=f"http://127.0.0.1:{listener.getsockname()[1]}")
    running = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off", timeout_graceful_shutdown=1))
    task = asyncio.create_task(running.serve(sockets=[listener]))
    while not running.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    try:
        yield app
    finally:
        running.should_exit = True
        await task
        listener.close()
