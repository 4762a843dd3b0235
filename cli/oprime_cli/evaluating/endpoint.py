"""A model behind an OpenAI-compatible server: chat completions, one request per sample, asked again while the server is out."""

import asyncio
import re
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx

from oprime.evaluation.benchmark import Decoding, Problem
from oprime.evaluation.evaluate import Response
from oprime.runtime.errors import OprimeError, SettingsError, UnusableInputError

ATTEMPTS = 6
FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 30.0
TIMEOUT_S = 1800.0
CONNECT_S = 10.0
SEED_BITS = 31
"""Servers read seeds into integers of different sizes; all have these bits."""
AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_TOO_LONG = re.compile(r"context (length|window)|max(imum)?[_ ]\w*[_ ]?(len|tokens)|too (long|many tokens)", re.IGNORECASE)
"""How servers say that a prompt leaves no room for a response."""


class EndpointError(OprimeError):
    """The server does not answer, or refuses for good."""


class Endpoint:
    """The Sampling port on a server. `close` at the end."""

    def __init__(
        self, url: str, *, model: str = "", key_file: Path | None = None, at_once: int = 64, first_wait_s: float = FIRST_WAIT_S
    ) -> None:
        """`url` with or without /v1. Without `model` the server's only one is asked. Raises SettingsError for a key file without a key."""
        self.url = url.rstrip("/").removesuffix("/chat/completions").removesuffix("/v1")
        self.model = model
        self._first_wait_s = first_wait_s
        headers = {"Authorization": f"Bearer {_key_in(key_file)}"} if key_file is not None else {}
        limits = httpx.Limits(max_connections=at_once, max_keepalive_connections=at_once)
        self._http = httpx.AsyncClient(headers=headers, timeout=httpx.Timeout(TIMEOUT_S, connect=CONNECT_S), limits=limits)

    async def start(self) -> None:
        """Ask what the server serves. Raises EndpointError, SettingsError."""
        found = await self._ask("GET", "/v1/models")
        known = [str(one.get("id")) for one in found.get("data") or () if isinstance(one, dict)]
        if self.model and known and self.model not in known:
            raise SettingsError(f"--model {self.model}: {self.url} serves {', '.join(known)}; name one of these")
        if not self.model and len(known) != 1:
            raise SettingsError(f"{self.url} serves {', '.join(known) or 'no model'}: name one with --model")
        self.model = self.model or known[0]

    async def close(self) -> None:
        await self._http.aclose()

    async def sample(self, problem: Problem, number: int, decoding: Decoding, seed: int) -> Response:
        """Raises UnusableInputError for a prompt that is too long, and EndpointError when the server stays out or refuses."""
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": message.role, "content": message.content} for message in problem.task.messages],
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            "max_tokens": decoding.max_tokens,
            "seed": seed % 2**SEED_BITS,
        }
        if decoding.stop:
            body["stop"] = list(decoding.stop)
        return self._response(await self._ask("POST", "/v1/chat/completions", body))

    def _response(self, answer: dict[str, Any]) -> Response:
        try:
            choice = answer["choices"][0]
            text, usage = choice["message"].get("content") or "", answer.get("usage") or {}
            return Response(
                text=text + "",  # a TypeError for anything but text
                finish_reason="length" if choice.get("finish_reason") == "length" else "stop",
                tokens=int(usage.get("completion_tokens") or 0),
            )
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise EndpointError(
                f"{self.url} answers with something that is no chat completion ({error!r}): is it an OpenAI-compatible server?"
            ) from error

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The answer, after as many tries as it takes and may take."""
        problem, wait_s = "", self._first_wait_s
        for attempt in range(1, ATTEMPTS + 1):
            try:
                answer = await self._http.request(method, self.url + path, json=body)
            except httpx.TransportError as error:
                problem = f"{type(error).__name__} {error}".strip()
            else:
                if answer.status_code not in AGAIN:
                    return self._settled(answer, path)
                problem = f"status {answer.status_code}: {_shown(answer)}"
                wait_s = max(wait_s, _retry_after_s(answer))
            if attempt < ATTEMPTS:
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)
        raise EndpointError(
            f"{self.url}{path} does not answer ({problem}), asked {ATTEMPTS} times. What was answered before is kept: see to the server, "
            "then run the same command again"
        )

    def _settled(self, answer: httpx.Response, path: str) -> dict[str, Any]:
        if answer.status_code == HTTPStatus.OK:
            return _object_of(answer, self.url + path)
        said = _shown(answer)
        if answer.status_code in (
            HTTPStatus.BAD_REQUEST,
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            HTTPStatus.UNPROCESSABLE_ENTITY,
        ) and _TOO_LONG.search(said):
            raise UnusableInputError(f"{self.url} refuses the prompt: {said}")
        remedy = {
            401: "; give its key with --api-key-file",
            403: "; is the key in --api-key-file the right one?",
            404: "; is the URL right?",
        }
        raise EndpointError(f"{self.url}{path} refuses with status {answer.status_code}: {said}{remedy.get(answer.status_code, '')}")


def _object_of(answer: httpx.Response, url: str) -> dict[str, Any]:
    try:
        found = answer.json()
    except ValueError as error:
        raise EndpointError(f"{url} answers with something that is no JSON: is it an OpenAI-compatible server?") from error
    if not isinstance(found, dict):
        raise EndpointError(f"{url} answers with a {type(found).__name__} in place of an object: is it an OpenAI-compatible server?")
    return found


def _shown(answer: httpx.Response) -> str:
    text = " ".join(answer.text.split())
    return text if len(text) <= 300 else f"{text[:297]}..."


def _retry_after_s(answer: httpx.Response) -> float:
    text = answer.headers.get("Retry-After", "")
    return min(float(text), LONGEST_WAIT_S) if text.isdecimal() else 0.0


def _key_in(file: Path) -> str:
    try:
        key = file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise SettingsError(f"--api-key-file {file} cannot be read: {error.strerror or error}") from error
    if not key or not key.isprintable() or not key.isascii():
        raise SettingsError(f"--api-key-file {file} holds no key: write it there alone, on one line")
    return key
