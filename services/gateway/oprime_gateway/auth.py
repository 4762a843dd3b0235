"""Who may ask: bearer keys, the loopback rule, and the size of requests. Plain ASGI, so that no route escapes it."""

import hashlib
import hmac
from collections.abc import Sequence
from functools import lru_cache
from http import HTTPStatus
from pathlib import Path

from fastapi import HTTPException
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from oprime.runtime.errors import SettingsError
from oprime.runtime.secret_files import read_secret
from oprime.runtime.setting_rules import is_loopback
from oprime_gateway.config import unguarded
from oprime_gateway.problems import problem

OPEN_PATHS = frozenset({"/", "/healthz", "/readyz"})
"""Probes, and the dashboard's page, which holds no data and asks for a key."""
OPEN_FOLDER = "/static/"
"""What that page loads."""
MIN_KEY_CHARS = 16


def load_keys(keys_file: Path | None, listen: str) -> tuple[str, ...]:
    """The bearer keys, one a line; `#` begins a comment. None are needed on loopback alone.

    Raises SettingsError for a file without usable keys, and without a file where other machines could connect.
    """
    if keys_file is None:
        if not is_loopback(listen):
            raise SettingsError(unguarded(listen))
        return ()
    try:
        lines = read_secret(keys_file, "gateway.api_keys_file").decode().splitlines()
    except UnicodeDecodeError as error:
        raise SettingsError(f"gateway.api_keys_file ({keys_file}) is no text in UTF-8 ({error}): write one key per line into it") from error
    keys = tuple(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))
    if not keys:
        raise SettingsError(f"gateway.api_keys_file ({keys_file}) has no key: write one per line")
    short = next((number for number, key in enumerate(keys, start=1) if len(key) < MIN_KEY_CHARS), None)
    if short is not None:
        raise SettingsError(
            f"gateway.api_keys_file ({keys_file}): key {short} is shorter than {MIN_KEY_CHARS} characters; make longer ones"
        )
    return keys


class RequireKey:
    """Answers 401 unless a request bears one of the keys. Without keys, answers only requests that name this machine as host."""

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self._app = app
        self._digests = tuple(_digest(key) for key in keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        headers = Headers(scope=scope)
        if not self._digests:
            # A web page elsewhere can have its name resolve to 127.0.0.1; its requests still carry that name.
            host = headers.get("host", "")
            if _is_this_machine(host):
                return None
            return problem(
                HTTPStatus.FORBIDDEN, f"host {host!r} is not this machine: without keys the gateway answers 127.0.0.1 and localhost alone"
            )
        if scope["path"] in OPEN_PATHS or scope["path"].startswith(OPEN_FOLDER) or self._knows(headers):
            return None
        return problem(
            HTTPStatus.UNAUTHORIZED,
            "no valid key: send the header `Authorization: Bearer KEY` with a key from gateway.api_keys_file",
            headers={"WWW-Authenticate": "Bearer"},
        )

    def _knows(self, headers: Headers) -> bool:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        given = _digest(key.strip())
        # Compare with every key, so that the time says nothing about which one was close.
        matches = [hmac.compare_digest(given, digest) for digest in self._digests]
        return scheme.lower() == "bearer" and any(matches)


@lru_cache(maxsize=64)
def _is_this_machine(host: str) -> bool:
    return is_loopback(host if ":" in host.rpartition("]")[2] else f"{host}:80")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


class LimitBody:
    """Answers 413 to request bodies above the limit, whether announced or not."""

    def __init__(self, app: ASGIApp, most_bytes: int) -> None:
        self._app = app
        self._most = most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdigit() and int(announced) > self._most:
            await problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, self._detail)(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._most:
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, self._detail)
            return message

        await self._app(scope, counted, send)

    @property
    def _detail(self) -> str:
        return f"the request body exceeds {self._most} bytes (gateway.max_request_bytes): send fewer inputs per request"
