"""One POST of JSON to somebody else's server, with everything that can go wrong as a TryFailedError."""

import json
import ssl
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx

from oprime.runtime.errors import SettingsError
from oprime.runtime.secret_files import read_secret
from oprime.runtime.tracing import HEADER, current
from oprime_verifier.external.attempts import TryFailedError
from oprime_verifier.external.settings import WebhookSection
from oprime_verifier.external.signing import SIGNATURE_HEADER, TIMESTAMP_HEADER, sign

CONNECT_S = 5.0
MAX_SHOWN_CHARS = 300
_PASSING = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})
"""Answers of the 400s that another try may better."""
_CREDENTIALS = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.PROXY_AUTHENTICATION_REQUIRED})
"""Answers of the 400s to whoever asks, whatever is asked."""


class JsonPoster:
    """Follows no redirect, reads no more than the cap, and checks certificates."""

    def __init__(self, name: str, section: WebhookSection) -> None:
        setting = f"verifier.webhooks.{name}"
        self._secret = read_secret(section.secret_file, f"{setting}.secret_file") if section.secret_file else None
        self._bearer = read_secret(section.bearer_file, f"{setting}.bearer_file").decode() if section.bearer_file else ""
        self._most_bytes = section.max_response_mib * 1024 * 1024
        self._client = httpx.AsyncClient(
            verify=_trusted(section.ca_file, f"{setting}.ca_file"),
            follow_redirects=False,
            trust_env=False,  # a proxy or netrc of the environment would see golds
            limits=httpx.Limits(max_connections=section.concurrency, max_keepalive_connections=section.concurrency),
        )

    async def post(self, url: str, message: Mapping[str, Any], *, timeout_s: float, key: str = "") -> Any:
        """The answer's JSON. Raises TryFailedError."""
        body = json.dumps(message).encode()
        try:
            async with self._client.stream(
                "POST",
                url,
                content=body,
                headers=self._headers(body, key),
                timeout=httpx.Timeout(max(timeout_s, 0.001), connect=min(CONNECT_S, max(timeout_s, 0.001))),
            ) as response:
                content = await self._read(response)
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise TryFailedError(f"{type(error).__name__}: {error}".removesuffix(": ")) from error
        except httpx.InvalidURL as error:
            raise TryFailedError(f"its URL cannot be used: {error}", retry=False) from error
        return _json(content)

    async def close(self) -> None:
        await self._client.aclose()

    def _headers(self, body: bytes, key: str) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
        if key.isascii() and key.isprintable() and key:
            headers["Idempotency-Key"] = key
        if self._bearer:
            headers["Authorization"] = f"Bearer {self._bearer}"
        if trace := current():
            headers[HEADER] = trace
        if self._secret is not None:
            timestamp = int(time.time())
            headers |= {TIMESTAMP_HEADER: str(timestamp), SIGNATURE_HEADER: sign(self._secret, timestamp, body)}
        return headers

    async def _read(self, response: httpx.Response) -> bytes:
        _check_status(response)
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            # A few compressed bytes may unpack to gigabytes.
            raise TryFailedError(
                f"it answered with Content-Encoding {response.headers['content-encoding']}; only identity is read", retry=False, own=True
            )
        content = bytearray()
        async for piece in response.aiter_bytes():
            content += piece
            if len(content) > self._most_bytes:
                raise TryFailedError(f"its answer is larger than {self._most_bytes // 2**20} MiB (max_response_mib)", retry=False, own=True)
        return bytes(content)


def _check_status(response: httpx.Response) -> None:
    status = response.status_code
    if status < 300:
        return
    if status < 400:
        place = response.headers.get("location", "")
        raise TryFailedError(
            f"it answered {status} to {place[:MAX_SHOWN_CHARS]!r}: redirects are not followed; set the final URL", retry=False
        )
    healthy = status < 500
    passing = not healthy or status in _PASSING
    own = not passing and status not in _CREDENTIALS
    reason = f"it answered {status} {response.reason_phrase}".rstrip()
    raise TryFailedError(reason, retry=passing, wait_s=retry_after_s(response.headers.get("retry-after", "")), healthy=healthy, own=own)


def retry_after_s(value: str, now: datetime | None = None) -> float:
    """Seconds that a Retry-After header asks for: a number, or a date; 0 for anything else."""
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return 0.0
    aware = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (aware - (now or datetime.now(UTC))).total_seconds())


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise TryFailedError(f"it answered what is not JSON: {content[:MAX_SHOWN_CHARS].decode(errors='replace')!r}", own=True) from error


def _trusted(ca_file: Path | None, setting: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context()
        if ca_file is not None:
            context.load_verify_locations(ca_file)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"{setting} ({ca_file}) cannot be read as certificates in PEM: {error}") from error
    return context
