"""A model behind an OpenAI-compatible endpoint: vLLM, SGLang, llama.cpp, and the services of others."""

import asyncio
from typing import Any

import httpx

from oprime.client.exchange import Patience, said_wait_s
from oprime.runtime.errors import SettingsError
from oprime_cli.chat.model import ChatRefusedError, ChatRequest, ChatResponse, ChatUnavailableError, Usage

TRANSIENT = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""Statuses after which the same request may go well."""
OF_ONE_REQUEST = frozenset({400, 413, 422})
"""Statuses that say nothing about other requests, for example that a prompt is too long."""
REFUSED_AT_FIRST = 8
"""When so many requests were refused and none was answered, it is no fault of single ones."""
ROUTE = "/chat/completions"
MODELS = "/models"
SEED_BITS = 31
"""Servers read seeds into integers of different sizes; all have these bits."""
SHOWN_CHARS = 300


class EndpointModel:
    """Asks `URL/chat/completions`; waits and asks again after what is transient."""

    def __init__(
        self, url: str, name: str, *, key: str = "", at_once: int = 16, timeout_s: float = 600.0, patience: Patience | None = None
    ) -> None:
        """`name` is what the endpoint calls the model; `models` says what it has. At most `at_once` requests are under way.

        Raises SettingsError for a wrong URL.
        """
        if not url.startswith(("http://", "https://")):
            raise SettingsError(f"{url!r} is no URL of an endpoint: give one such as http://127.0.0.1:8000/v1")
        self.usage = Usage()
        self._base = url.rstrip("/").removesuffix(ROUTE)
        self._url = self._base + ROUTE
        self.name = name
        self._patience = patience or Patience()
        self._refused = 0
        self._turns = asyncio.Semaphore(at_once)
        self._http = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(timeout_s, connect=10.0),
            limits=httpx.Limits(max_connections=at_once, max_keepalive_connections=at_once),
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def respond(self, request: ChatRequest) -> ChatResponse:
        body = self._body(request)
        async with self._turns:
            answer = await self._answer("POST", self._url, body)
        response = self._read(answer)
        self.usage.add(response)
        return response

    async def models(self) -> list[str]:
        """The names of the models that the endpoint serves. Raises ChatUnavailableError."""
        answer = await self._answer("GET", self._base + MODELS)
        try:
            return [str(one["id"]) for one in answer.json()["data"]]
        except (ValueError, KeyError, TypeError) as error:
            raise ChatUnavailableError(_no_endpoint(self._base + MODELS, answer, "list of models")) from error

    async def _answer(self, method: str, url: str, body: dict[str, Any] | None = None) -> httpx.Response:
        """What is answered at last, after as many attempts as it takes and may take."""
        attempt = 0
        while True:
            attempt += 1
            answer = await self._ask(method, url, body)
            if isinstance(answer, httpx.Response) and answer.is_success:
                return answer
            await asyncio.sleep(self._wait_s(url, attempt, answer))
            self.usage.repeated += 1

    def _body(self, request: ChatRequest) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.name,
            "messages": [{"role": message.role, "content": message.content} for message in request.messages],
            "temperature": request.temperature,
            "top_p": request.top_p,
            "max_tokens": request.max_tokens,
            "seed": request.seed % 2**SEED_BITS,
        }
        return {**body, "stop": list(request.stop)} if request.stop else body

    async def _ask(self, method: str, url: str, body: dict[str, Any] | None) -> httpx.Response | httpx.TransportError:
        try:
            return await self._http.request(method, url, json=body)
        except httpx.TransportError as error:
            return error

    def _wait_s(self, url: str, attempt: int, failure: httpx.Response | httpx.TransportError) -> float:
        """Seconds until the next attempt. Raises ChatRefusedError and ChatUnavailableError where there is none."""
        answered = isinstance(failure, httpx.Response)
        why = f"{url} answers {failure.status_code}: {_detail(failure)}" if answered else f"{url}: {_named(failure)}"
        if answered and failure.status_code in OF_ONE_REQUEST:
            self._refused += 1
            if not self.usage.responses and self._refused >= REFUSED_AT_FIRST:
                raise ChatUnavailableError(f"the first {self._refused} requests were all refused; the last: {why}")
            raise ChatRefusedError(why)
        if answered and failure.status_code not in TRANSIENT:
            raise ChatUnavailableError(f"{why}; check the URL (it usually ends with /v1), the model's name {self.name!r} and the key")
        if attempt >= self._patience.attempts:
            raise ChatUnavailableError(f"no response after {attempt} attempts; the last: {why}")
        return self._patience.wait_s(attempt, said_wait_s(failure) if answered else None)

    def _read(self, answer: httpx.Response) -> ChatResponse:
        try:
            body = answer.json()
            choice, usage = body["choices"][0], body.get("usage") or {}
            return ChatResponse(
                text=(choice["message"].get("content") or "") + "",  # a TypeError for anything but text
                cut=choice.get("finish_reason") == "length",
                prompt_tokens=int(usage.get("prompt_tokens") or 0),
                response_tokens=int(usage.get("completion_tokens") or 0),
            )
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise ChatUnavailableError(_no_endpoint(self._url, answer, "chat completion")) from error


def _no_endpoint(url: str, answer: httpx.Response, wanted: str) -> str:
    return f"{url} answers {answer.text[:SHOWN_CHARS]!r}, which is no {wanted}: is that an OpenAI-compatible endpoint?"


def _detail(response: httpx.Response) -> str:
    """What an endpoint says of a failure, in one of the usual places."""
    try:
        body = response.json()
        error = body.get("error", body)
        said = error if isinstance(error, str) else error.get("message") or error.get("detail")
    except (ValueError, AttributeError):
        said = None
    return " ".join(str(said or response.text).split())[:SHOWN_CHARS] or "nothing more"


def _named(error: httpx.TransportError) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
