"""Request bodies that come compressed. Answers are compressed by Starlette."""

import zlib
from http import HTTPStatus

from fastapi import HTTPException
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from oprime_gateway.problems import problem

GZIP = 31
"""What zlib calls a stream with gzip's header."""


class Decompress:
    """Unpacks gzip, up to the size that a body may have; other encodings are answered 415."""

    def __init__(self, app: ASGIApp, most_bytes: int) -> None:
        self._app = app
        self._most = most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        encoding = Headers(scope=scope).get("content-encoding", "").strip().lower() if scope["type"] == "http" else ""
        if encoding in ("", "identity"):
            await self._app(scope, receive, send)
        elif encoding in ("gzip", "x-gzip"):
            kept = [(name, value) for name, value in scope["headers"] if name not in (b"content-encoding", b"content-length")]
            await self._app({**scope, "headers": kept}, Gunzipped(receive, self._most), send)
        else:
            detail = f"content encoding {encoding!r} is not understood: send gzip, or the plain body"
            refusal = problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, detail, headers={"Accept-Encoding": "gzip"})
            await refusal(scope, receive, send)


class Gunzipped:
    """`receive` of a body that was compressed. Raises HTTPException: 400 where it was not, 413 where it is too large."""

    def __init__(self, receive: Receive, most_bytes: int) -> None:
        self._receive = receive
        self._most = most_bytes
        self._seen = 0
        self._stream = zlib.decompressobj(GZIP)

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] != "http.request":
            return message
        ends = not message.get("more_body", False)
        body = self._unpacked(message.get("body", b""))
        self._seen += len(body)
        if self._seen > self._most:
            raise HTTPException(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"the unpacked request body exceeds {self._most} bytes (gateway.max_request_bytes): send fewer inputs per request",
            )
        if ends and not self._stream.eof:
            raise HTTPException(HTTPStatus.BAD_REQUEST, "the request body ends before its gzip stream does: send it whole")
        return {**message, "body": body}

    def _unpacked(self, packed: bytes) -> bytes:
        try:
            # One byte beyond the limit tells that it was passed, however small the packed body is.
            body = self._stream.decompress(packed, self._most - self._seen + 1)
        except zlib.error as error:
            raise HTTPException(HTTPStatus.BAD_REQUEST, f"the request body is no gzip stream ({error})") from error
        if self._stream.unused_data:
            raise HTTPException(HTTPStatus.BAD_REQUEST, "something follows the gzip stream of the request body: send one stream")
        return body
