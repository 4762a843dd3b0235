"""A gateway's clients. Both ask in pieces, wait and ask again for what is transient, and go on with a stream where it broke off."""

import asyncio
import json
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, Unpack

import httpx

from oprime.client.answers import BestOfN, Rewards, ScoredInput
from oprime.client.errors import RefusedError
from oprime.client.exchange import (
    NDJSON,
    Lines,
    Patience,
    Piece,
    failure_of,
    is_about_inputs,
    next_wait_s,
    object_of,
    packed,
    pieces,
    refused_alone,
)
from oprime.client.forms import BestOfNOptions, Options, RewardInput
from oprime.runtime.errors import SettingsError

ADDRESS = "OPRIME_REWARDS"
"""Environment variable with the gateway's URL."""
KEY_FILE = "OPRIME_REWARDS_KEY_FILE"
"""Environment variable with the name of the file that holds a key."""

Failure = httpx.Response | httpx.TransportError
TIMEOUT_S = 120.0
STREAMS = {"Accept": NDJSON}


class _Client:
    """What both have in common: where the gateway is, and how much it gets at once."""

    def __init__(
        self,
        url: str = "",
        *,
        key: str | None = None,
        key_file: Path | None = None,
        timeout_s: float = TIMEOUT_S,
        most_inputs: int = 64,
        most_chars: int = 2_000_000,
        patience: Patience | None = None,
    ) -> None:
        """`url` is by default that of OPRIME_REWARDS, the key that in the file of OPRIME_REWARDS_KEY_FILE, if there is one."""
        self.url = (url or os.environ.get(ADDRESS, "")).rstrip("/").removesuffix("/v1/rewards").removesuffix("/v1")
        if not self.url.startswith(("http://", "https://")):
            raise SettingsError(f"{self.url!r} is no URL of a gateway: give one such as http://127.0.0.1:8080, or set {ADDRESS}")
        self._key = key or _key_in(key_file or Path(os.environ.get(KEY_FILE, "")))
        self._timeout_s = timeout_s
        self._limits = {"most_inputs": most_inputs, "most_chars": most_chars}
        self._patience = patience or Patience()

    @property
    def _settings(self) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        return {"base_url": self.url, "headers": headers, "timeout": httpx.Timeout(self._timeout_s, connect=10.0)}

    def _pieces(self, inputs: Sequence[RewardInput], options: Mapping[str, Any]) -> Iterator[Piece]:
        return pieces(inputs, options, **self._limits)

    def _wait_s(self, attempt: int, failure: Failure) -> float:
        return next_wait_s(self._patience, attempt, failure)


class RewardClient(_Client):
    """Blocking. One request at a time."""

    def __init__(self, url: str = "", **settings: Any) -> None:
        super().__init__(url, **settings)
        self._http = httpx.Client(**self._settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *problem: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def rewards(self, inputs: Sequence[RewardInput], **options: Unpack[Options]) -> Rewards:
        """Rewards of all inputs, in order. An input that cannot be scored has an error of its own.

        Raises RefusedError for a request that breaks a rule, UnavailableError when the gateway does not answer in the end.
        """
        waiting, answers = deque(self._pieces(inputs, options)), list[_Answered]()
        while waiting:
            piece = waiting.popleft()
            response = self._post("/v1/rewards", piece.body(options))
            if response.is_error and len(piece.inputs) > 1:
                waiting.extendleft(reversed(piece.halves()))
            else:
                answers.append(_answered(piece, response))
        return _joined(answers)

    def stream(self, inputs: Sequence[RewardInput], **options: Unpack[Options]) -> Iterator[ScoredInput]:
        """The same, one after the other as they are known. A stream that breaks off goes on behind the last input that came."""
        waiting = deque(self._pieces(inputs, options))
        attempt = 0
        while waiting:
            reading = _Reading(waiting.popleft())
            try:
                content, headers = packed(reading.rest.body(options))
                with self._http.stream("POST", "/v1/rewards", content=content, headers={**headers, **STREAMS}) as response:
                    if response.status_code != httpx.codes.OK:
                        response.read()
                        yield from reading.refused(response)
                    else:
                        for data in response.iter_bytes():
                            yield from reading.feed(data)
                failure: Failure = response
            except httpx.TransportError as error:
                failure = error
            attempt = 1 if reading.read else attempt + 1
            wait_s = _after_stream(self, waiting, reading, failure, attempt)
            if wait_s is not None:
                time.sleep(wait_s)

    def best_of_n(self, responses: Sequence[str], **question: Unpack["_Question"]) -> BestOfN:
        """The best of several responses to one `prompt`, or to `messages`."""
        return BestOfN.of(_answer(self._post("/v1/best-of-n", {**question, "responses": list(responses)})))

    def models(self) -> list[dict[str, Any]]:
        """The reward model that answers now, with its revision; none where nothing gives rewards."""
        return _answer(self._ask("GET", "/v1/models"))["data"]

    def verifiers(self) -> list[dict[str, Any]]:
        """The verifiers that judge answers, for votes. Raises RefusedError (404) where the gateway gives rewards alone."""
        return _answer(self._ask("GET", "/v1/verifiers"))["data"]

    def _post(self, path: str, body: Any) -> httpx.Response:
        content, headers = packed(body)
        return self._ask("POST", path, content=content, headers=headers)

    def _ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        """An answer that is well, or that refuses inputs; waits and asks again for what is transient. Raises as `next_wait_s`."""
        attempt = 0
        while True:
            attempt += 1
            try:
                failure: Failure = self._http.request(method, path, **request)
                if failure.is_success or is_about_inputs(failure):
                    return failure
            except httpx.TransportError as error:
                failure = error
            time.sleep(self._wait_s(attempt, failure))


class AsyncRewardClient(_Client):
    """For an event loop. Several requests at a time."""

    def __init__(self, url: str = "", *, at_once: int = 4, **settings: Any) -> None:
        super().__init__(url, **settings)
        self._http = httpx.AsyncClient(**self._settings)
        self._turns = asyncio.Semaphore(at_once)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *problem: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def rewards(self, inputs: Sequence[RewardInput], **options: Unpack[Options]) -> Rewards:
        """As `RewardClient.rewards`."""
        answers = await asyncio.gather(*(self._answers(piece, options) for piece in self._pieces(inputs, options)))
        return _joined([answer for some in answers for answer in some])

    async def stream(self, inputs: Sequence[RewardInput], **options: Unpack[Options]) -> AsyncIterator[ScoredInput]:
        """As `RewardClient.stream`."""
        waiting = deque(self._pieces(inputs, options))
        attempt = 0
        while waiting:
            reading = _Reading(waiting.popleft())
            try:
                content, headers = packed(reading.rest.body(options))
                async with self._http.stream("POST", "/v1/rewards", content=content, headers={**headers, **STREAMS}) as response:
                    if response.status_code != httpx.codes.OK:
                        await response.aread()
                        for item in reading.refused(response):
                            yield item
                    else:
                        async for data in response.aiter_bytes():
                            for item in reading.feed(data):
                                yield item
                failure: Failure = response
            except httpx.TransportError as error:
                failure = error
            attempt = 1 if reading.read else attempt + 1
            wait_s = _after_stream(self, waiting, reading, failure, attempt)
            if wait_s is not None:
                await asyncio.sleep(wait_s)

    async def best_of_n(self, responses: Sequence[str], **question: Unpack["_Question"]) -> BestOfN:
        """As `RewardClient.best_of_n`."""
        return BestOfN.of(_answer(await self._post("/v1/best-of-n", {**question, "responses": list(responses)})))

    async def models(self) -> list[dict[str, Any]]:
        """As `RewardClient.models`."""
        return _answer(await self._ask("GET", "/v1/models"))["data"]

    async def verifiers(self) -> list[dict[str, Any]]:
        """As `RewardClient.verifiers`."""
        return _answer(await self._ask("GET", "/v1/verifiers"))["data"]

    async def _answers(self, piece: Piece, options: Mapping[str, Any]) -> "list[_Answered]":
        response = await self._post("/v1/rewards", piece.body(options))
        if response.is_error and len(piece.inputs) > 1:
            halves = await asyncio.gather(*(self._answers(half, options) for half in piece.halves()))
            return [answer for half in halves for answer in half]
        return [_answered(piece, response)]

    async def _post(self, path: str, body: Any) -> httpx.Response:
        content, headers = packed(body)
        return await self._ask("POST", path, content=content, headers=headers)

    async def _ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        attempt = 0
        while True:
            attempt += 1
            try:
                async with self._turns:
                    failure: Failure = await self._http.request(method, path, **request)
                if failure.is_success or is_about_inputs(failure):
                    return failure
            except httpx.TransportError as error:
                failure = error
            await asyncio.sleep(self._wait_s(attempt, failure))


class _Question(BestOfNOptions, total=False):
    prompt: str
    messages: Sequence[dict[str, Any]]


class _Reading:
    """What has come of a stream."""

    def __init__(self, piece: Piece) -> None:
        self.rest = piece
        self.read = 0
        """Inputs that came."""
        self.problem: dict[str, Any] | None = None
        """With which the stream ended, if it did not end well."""
        self._lines = Lines()
        self._revision = ""

    def feed(self, data: bytes) -> Iterator[ScoredInput]:
        for line in self._lines.feed(data):
            event = _event(line)
            match event.get("object"):
                case "rewards.begin":
                    self._revision = event["model_revision"]
                case "rewards.item":
                    self.read += 1
                    yield ScoredInput.of(event, first=self.rest.first, revision=self._revision)
                case "rewards.end":
                    pass
                case _:
                    self.problem = event

    def refused(self, response: httpx.Response) -> Iterator[ScoredInput]:
        """The answer to an input that was sent alone, where it is at fault."""
        if len(self.rest.inputs) == 1 and is_about_inputs(response):
            self.read = 1
            yield refused_alone(self.rest, response)

    @property
    def still_to_come(self) -> Piece:
        return self.rest.cut(self.read)


def _event(line: bytes) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except ValueError as error:
        raise RefusedError(f"a line of the stream is no JSON ({error}): is that a gateway of oprime?") from error
    return event if isinstance(event, dict) else {}


def _after_stream(client: _Client, waiting: deque[Piece], reading: _Reading, failure: Failure, attempt: int) -> float | None:
    """Puts back what has not come; returns how long to wait for it, None where all has come.

    Raises RefusedError and UnavailableError as `RewardClient.rewards` does.
    """
    rest = reading.still_to_come
    if not rest.inputs:
        return None
    if isinstance(failure, httpx.Response) and is_about_inputs(failure):
        waiting.extendleft(reversed(rest.halves()))
        return None
    waiting.appendleft(rest)
    if reading.read and (reading.problem is None or reading.problem.get("status") == httpx.codes.CONFLICT):
        return 0.0
    if isinstance(failure, httpx.Response) and failure.is_success:
        failure = httpx.RemoteProtocolError(str(reading.problem or "the stream broke off"))
    return client._wait_s(attempt, failure)


_Answered = tuple[Piece, Mapping[str, Any] | ScoredInput]
"""A piece with its answer, or with what became of its one input that was refused."""


def _answered(piece: Piece, response: httpx.Response) -> _Answered:
    return piece, refused_alone(piece, response) if response.is_error else object_of(response)


def _answer(response: httpx.Response) -> dict[str, Any]:
    if response.is_error:
        raise RefusedError(failure_of(response), response.status_code, about_inputs=True)
    return object_of(response)


def _joined(answers: Sequence[_Answered]) -> Rewards:
    items: list[ScoredInput] = []
    last: Mapping[str, Any] = {"beta": 0.0, "reference_model": ""}
    try:
        for piece, answer in answers:
            if isinstance(answer, ScoredInput):
                items.append(answer)
                continue
            items += [ScoredInput.of(item, first=piece.first, revision=answer["model_revision"]) for item in answer["data"]]
            last = answer
        return Rewards(items=items, beta=last["beta"], reference_model=last["reference_model"])
    except (KeyError, TypeError) as error:
        raise RefusedError(f"the answer is none of a gateway of oprime ({type(error).__name__}: {error})") from error


def _key_in(file: Path) -> str | None:
    """The key in a file, as gateway.api_keys_file holds it: the first line that is no comment."""
    if file == Path():
        return None
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else f"it is no text in UTF-8 ({error})"
        raise SettingsError(
            f"the key file {file} cannot be read: {said}; write one of the gateway's keys into it, or name another file (--key-file, "
            f"{KEY_FILE})"
        ) from error
    key = next((line.strip() for line in lines if line.strip() and not line.startswith("#")), None)
    if key is None:
        raise SettingsError(f"the key file {file} holds no key: write one of the gateway's into it")
    return key
