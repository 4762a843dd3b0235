"""Requests to a gateway and what to make of its answers, without a network: pieces of inputs, waits, lines. Pure but for the clock and
the dice of a wait."""

import email.utils
import gzip
import json
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import httpx

from oprime.client.answers import ScoredInput
from oprime.client.errors import RefusedError, UnavailableError
from oprime.client.forms import BestOfNOptions, Options, RewardInput

TRANSIENT = frozenset({408, 425, 429, 502, 503, 504})
"""Statuses after which the same request may go well."""
GZIP_FROM_BYTES = 16_384
NDJSON = "application/x-ndjson"
OPTIONS = frozenset({*Options.__annotations__, *BestOfNOptions.__annotations__})
"""Fields of a request that are the same for all inputs."""
ALONE = "too large even alone: "
"""How the error of an input begins that exceeds a limit by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How often and how long."""

    attempts: int = 6
    first_wait_s: float = 0.5
    most_wait_s: float = 30.0

    def wait_s(self, attempt: int, said: float | None = None) -> float:
        """Seconds to wait after a failed attempt (the first is 1): what the gateway said, else twice as long each time, with chance."""
        backoff = min(self.most_wait_s, self.first_wait_s * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        return backoff if said is None else min(max(said, 0.0), 10 * self.most_wait_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Inputs of one request: some that follow each other."""

    first: int
    """Index of the first among all."""
    inputs: Sequence[RewardInput]
    spans: Sequence[Any] | None = None
    """Their steps, where the caller gave spans."""

    def halves(self) -> "tuple[Piece, Piece]":
        middle = len(self.inputs) // 2
        return self.cut(0, middle), self.cut(middle, len(self.inputs))

    def cut(self, start: int, end: int | None = None) -> "Piece":
        return Piece(first=self.first + start, inputs=self.inputs[start:end], spans=None if self.spans is None else self.spans[start:end])

    def body(self, options: Mapping[str, Any]) -> dict[str, Any]:
        body: dict[str, Any] = {"encoding_format": "base64", **options, "inputs": list(self.inputs)}
        if self.spans is not None:
            body["steps"] = {**options["steps"], "spans": self.spans}
        return body


def pieces(inputs: Sequence[RewardInput], options: Mapping[str, Any], *, most_inputs: int, most_chars: int) -> Iterator[Piece]:
    """Inputs in pieces below both limits; one that is larger than the second has a piece of its own."""
    spans = (options.get("steps") or {}).get("spans")
    if spans is not None and len(spans) != len(inputs):
        raise RefusedError(f"steps.spans has {len(spans)} entries for {len(inputs)} inputs: give one list of spans per input")
    whole, start, chars = Piece(first=0, inputs=inputs, spans=spans), 0, 0
    for place, item in enumerate(inputs):
        size = _chars(item)
        if place > start and (place - start == most_inputs or chars + size > most_chars):
            yield whole.cut(start, place)
            start, chars = place, 0
        chars += size
    if start < len(inputs):
        yield whole.cut(start)


def _chars(item: Mapping[str, Any]) -> int:
    """About how long the input's JSON is."""
    return sum(len(value) if isinstance(value, str) else 8 * len(value) for value in item.values() if isinstance(value, Sequence)) + sum(
        len(str(message.get("content", ""))) for message in item.get("messages") or ()
    )


def packed(body: Any) -> tuple[bytes, dict[str, str]]:
    """A body and its headers; long ones in gzip."""
    try:
        data = json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=list).encode()
    except (TypeError, ValueError, UnicodeEncodeError) as error:
        raise RefusedError(f"the inputs are no JSON ({error}): give texts, lists of whole numbers, and dictionaries of them") from error
    headers = {"Content-Type": "application/json"}
    return (data, headers) if len(data) < GZIP_FROM_BYTES else (gzip.compress(data, 1), {**headers, "Content-Encoding": "gzip"})


def is_about_inputs(response: httpx.Response) -> bool:
    """Whether a refusal speaks of what is to be scored, so that others, or fewer at a time, may be answered."""
    if response.status_code == HTTPStatus.UNPROCESSABLE_ENTITY:
        return not any(name in OPTIONS for name in _fields_at_fault(response))
    return response.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE


def _fields_at_fault(response: httpx.Response) -> list[str]:
    """The fields of the body that break a rule, as far as the gateway names them."""
    try:
        places = [str(fault["location"]).split(".") for fault in response.json().get("errors") or ()]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []
    return [place[1] for place in places if len(place) > 1]


def refused_alone(piece: Piece, response: httpx.Response) -> ScoredInput:
    """What becomes of an input that the gateway does not even take alone."""
    why = failure_of(response)
    too_large = response.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    return ScoredInput(
        index=piece.first,
        id=piece.inputs[0].get("id"),
        revision="",
        error=f"{ALONE}{why}" if too_large else why,
        refused=response.status_code,
    )


def failure_of(response: httpx.Response) -> str:
    """What a gateway, or what stands before it, says of a failure."""
    try:
        detail = str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        detail = response.text[:200]
    return f"{_place(response)} answers {response.status_code}: {detail}"


def _place(failure: httpx.Response | httpx.TransportError) -> str:
    """The gateway that was asked."""
    url = failure.request.url
    return f"{url.host}:{url.port}" if url.port else url.host


def said_wait_s(response: httpx.Response) -> float | None:
    """Retry-After in seconds, which may also be a date."""
    text = response.headers.get("retry-after", "")
    if text.isdecimal():
        return float(text)
    moment = email.utils.parsedate_to_datetime(text) if text.endswith("GMT") else None
    return None if moment is None else moment.timestamp() - time.time()


def next_wait_s(patience: Patience, attempt: int, failure: httpx.Response | httpx.TransportError) -> float:
    """Seconds until the next attempt. Raises RefusedError for what will not change, UnavailableError after the last attempt."""
    answered = isinstance(failure, httpx.Response)
    why = failure_of(failure) if answered else f"{_place(failure)}: {type(failure).__name__}: {failure}"
    if answered and failure.status_code not in TRANSIENT:
        raise RefusedError(why, failure.status_code)
    if attempt >= patience.attempts:
        raise UnavailableError(f"no answer after {attempt} attempts; the last: {why}")
    return patience.wait_s(attempt, said_wait_s(failure) if answered else None)


def object_of(response: httpx.Response) -> dict[str, Any]:
    try:
        value = response.json()
    except ValueError as error:
        raise RefusedError(f"{response.url} answers no JSON: is that a gateway of oprime?") from error
    if not isinstance(value, dict):
        raise RefusedError(f"{response.url} answers a {type(value).__name__} and no object: is that a gateway of oprime?")
    return value


class Lines:
    """Bytes to lines. Only \\n ends one: texts may hold every other separator that Python knows."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        *whole, self._rest = (self._rest + data).split(b"\n")
        return whole
