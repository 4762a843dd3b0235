"""Models that answer conversations: behind an endpoint that listens, and on this machine."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from pydantic import ValidationError

from gateway_world import listening
from oprime.client.exchange import Patience
from oprime.core.types import ChatMessage
from oprime.runtime.errors import SettingsError
from oprime_cli.chat.endpoint import REFUSED_AT_FIRST, EndpointModel
from oprime_cli.chat.model import ChatRefusedError, ChatRequest, ChatResponse, ChatUnavailableError
from oprime_cli.chat.settings import ChatModelSection, chat_model
from tiny_policies import write_policy

SOON = Patience(attempts=3, first_wait_s=0.01, most_wait_s=0.02)
ASKED = ChatRequest(messages=(ChatMessage(role="user", content="2 + 2?"),), temperature=0.5, top_p=0.9, max_tokens=7, stop=("\n",), seed=3)
Handler = Callable[[int, dict[str, Any], Request], Awaitable[Response]]


@asynccontextmanager
async def answering(handler: Handler) -> AsyncIterator[str]:
    """The URL of an endpoint whose answers depend on how many requests came before."""
    app, seen = FastAPI(), [0]

    @app.post("/v1/chat/completions")
    async def completions(request: Request) -> Response:
        seen[0] += 1
        return await handler(seen[0], await request.json(), request)

    async with listening(app) as url:
        yield f"{url}/v1"


def completion(text: str | None, finish_reason: str = "stop") -> Response:
    return JSONResponse(
        {
            "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}],
            "usage": {"prompt_tokens": 5, "completion_tokens": 2},
        }
    )


async def test_a_request_says_all_and_what_is_used_is_counted(tmp_path: Path) -> None:
    bodies: list[dict[str, Any]] = []
    keys: list[str | None] = []

    async def four(number: int, body: dict[str, Any], request: Request) -> Response:
        bodies.append(body)
        keys.append(request.headers.get("authorization"))
        return completion("four") if number == 1 else completion(None, "length")

    (tmp_path / "key").write_text("secret\n")
    (tmp_path / "key").chmod(0o600)
    async with answering(four) as url:
        section = ChatModelSection(url=url, name="m", key_file=str(tmp_path / "key"), prompt_price=1e5, response_price=1e6)
        async with chat_model(section) as model:
            assert await model.respond(ASKED) == ChatResponse(text="four", cut=False, prompt_tokens=5, response_tokens=2)
            assert await model.respond(ChatRequest(messages=ASKED.messages)) == ChatResponse(
                text="", cut=True, prompt_tokens=5, response_tokens=2
            )
            # Twice 5 tokens at 0.1 and twice 2 tokens at 1.
            assert section.cost(model.usage) == pytest.approx(5.0)
            assert model.usage.responses == 2
    asked = {"model": "m", "messages": [{"role": "user", "content": "2 + 2?"}]}
    assert bodies[0] == {**asked, "temperature": 0.5, "top_p": 0.9, "max_tokens": 7, "seed": 3, "stop": ["\n"]}
    assert bodies[1] == {**asked, "temperature": 1.0, "top_p": 1.0, "max_tokens": 4096, "seed": 0}
    assert keys == ["Bearer secret"] * 2


async def test_what_is_transient_is_asked_again() -> None:
    async def at_last(number: int, body: dict[str, Any], request: Request) -> Response:
        if number < 3:
            return PlainTextResponse("busy", status_code=(429, 500)[number - 1], headers={"retry-after": "0"})
        return completion("four")

    async with answering(at_last) as url:
        model = EndpointModel(url, "m", patience=SOON)
        assert (await model.respond(ASKED)).text == "four"
        assert (model.usage.responses, model.usage.repeated) == (1, 2)
        await model.close()


async def test_an_endpoint_that_goes_on_failing_is_given_up() -> None:
    async def never(number: int, body: dict[str, Any], request: Request) -> Response:
        return JSONResponse({"error": {"message": "out of memory"}}, status_code=500)

    async with answering(never) as url:
        model = EndpointModel(url, "m", patience=SOON)
        with pytest.raises(ChatUnavailableError, match=r"no response after 3 attempts; the last: .* answers 500: out of memory"):
            await model.respond(ASKED)
        await model.close()
    model = EndpointModel(url, "m", patience=SOON)
    with pytest.raises(ChatUnavailableError, match=r"no response after 3 attempts; the last: .*ConnectError"):
        await model.respond(ASKED)
    await model.close()


@pytest.mark.parametrize(
    ("status", "error", "said"),
    [
        (400, ChatRefusedError, "answers 400: too long"),
        (401, ChatUnavailableError, "answers 401: too long; check the URL"),
        (404, ChatUnavailableError, "the model's name 'm'"),
    ],
)
async def test_a_refusal_is_not_repeated(status: int, error: type[Exception], said: str) -> None:
    seen: list[int] = []

    async def refuse(number: int, body: dict[str, Any], request: Request) -> Response:
        seen.append(number)
        return JSONResponse({"message": "too long"}, status_code=status)

    async with answering(refuse) as url:
        model = EndpointModel(f"{url}/chat/completions", "m", patience=SOON)
        with pytest.raises(error, match=said):
            await model.respond(ASKED)
        await model.close()
    assert seen == [1]


async def test_an_endpoint_that_refuses_everything_is_given_up() -> None:
    async def refuse(number: int, body: dict[str, Any], request: Request) -> Response:
        return JSONResponse({"message": "max_tokens is too large"}, status_code=400)

    async with answering(refuse) as url:
        model = EndpointModel(url, "m", patience=SOON)
        for _ in range(REFUSED_AT_FIRST - 1):
            with pytest.raises(ChatRefusedError):
                await model.respond(ASKED)
        with pytest.raises(ChatUnavailableError, match=r"the first 8 requests were all refused; the last: .*max_tokens is too large"):
            await model.respond(ASKED)
        await model.close()


async def test_an_answer_that_is_no_completion_is_shown() -> None:
    async def hello(number: int, body: dict[str, Any], request: Request) -> Response:
        return PlainTextResponse("hello") if number == 1 else JSONResponse({"choices": []})

    async with answering(hello) as url:
        model = EndpointModel(url, "m", patience=SOON)
        for said in ("'hello'", "choices"):
            with pytest.raises(ChatUnavailableError, match=f"{said}.*no chat completion"):
                await model.respond(ASKED)
        await model.close()


async def test_no_more_requests_are_under_way_than_allowed() -> None:
    under_way, most = 0, 0

    async def slow(number: int, body: dict[str, Any], request: Request) -> Response:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.01)
        under_way -= 1
        return completion("four")

    async with answering(slow) as url:
        model = EndpointModel(url, "m", at_once=2, patience=SOON)
        await asyncio.gather(*(model.respond(ASKED) for _ in range(8)))
        await model.close()
    assert most == 2


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "either a url or a path"),
        ({"url": "http://x/v1", "path": "m", "name": "m"}, "either a url or a path"),
        ({"url": "http://x/v1"}, "name is empty"),
    ],
)
def test_settings_that_name_no_model_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ChatModelSection(**settings)


async def test_a_url_that_is_none_is_refused() -> None:
    with pytest.raises(SettingsError, match="'localhost:8000' is no URL of an endpoint"):
        async with chat_model(ChatModelSection(url="localhost:8000", name="m")):
            pass


@pytest.mark.filterwarnings("ignore")
@pytest.mark.timeout(280)
@pytest.mark.parametrize("backend", ["transformers", pytest.param("vllm", marks=[pytest.mark.e2e, pytest.mark.slow])])
async def test_a_local_model_answers_through_its_chat_template(tmp_path: Path, backend: Literal["transformers", "vllm"]) -> None:
    write_policy(tmp_path)
    section = ChatModelSection(path=str(tmp_path), backend=backend, dtype="float32", top_p=1, max_prompt_tokens=20, max_response_tokens=8)
    asked = ChatRequest(messages=(ChatMessage(role="user", content="3 + 8"),), max_tokens=8, seed=1)
    async with chat_model(section) as model:
        first = await model.respond(asked)
        assert first == await model.respond(asked)
        assert 0 < first.response_tokens <= 8
        assert model.usage.prompt_tokens == 2 * first.prompt_tokens > 0
        stop = first.text[1]
        assert (await model.respond(ChatRequest(messages=asked.messages, max_tokens=8, seed=1, stop=(stop,)))).text == first.text.split(
            stop
        )[0]
        with pytest.raises(ChatRefusedError, match=r"the prompt has \d+ tokens, and the model's context 28"):
            await model.respond(ChatRequest(messages=(ChatMessage(role="user", content="3 " * 50),), max_tokens=8))
