"""The client against gateways that listen: a real one, and one that fails as networks do."""

import asyncio
import gzip
import json
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from hypothesis import given
from hypothesis import strategies as st

from gateway_world import FORBIDDEN, KEY, REFERENCE, CharacterPrm, listening, live
from oprime.client import AsyncRewardClient, RefusedError, RewardClient, ScoredInput, TextInput, UnavailableError
from oprime.client.exchange import Lines, Patience, pieces
from oprime.runtime.errors import SettingsError

TEXT: TextInput = {"prompt": "p", "response": "ab\n\ncd"}
SOON = Patience(attempts=3, first_wait_s=0.01, most_wait_s=0.02)
Handler = Callable[[int, Request], Awaitable[Response]]


def inputs_of(count: int) -> list[TextInput]:
    return [{"id": str(place), "prompt": "p", "response": "a" * (place % 5)} for place in range(count)]


def expected(place: int) -> float:
    """The fake PRM's reward of a response of n characters and an end token."""
    length = place % 5
    return length * (length + 1) / 4


@asynccontextmanager
async def failing(handler: Handler) -> AsyncIterator[str]:
    """A server whose answers depend on how many requests came before."""
    app, seen = FastAPI(), [0]

    @app.post("/v1/rewards")
    async def rewards(request: Request) -> Response:
        seen[0] += 1
        return await handler(seen[0], request)

    async with listening(app) as url:
        yield url


async def blocking(url: str, call: Callable[[RewardClient], Any], **settings: Any) -> Any:
    """What the blocking client gives, in a thread of its own."""

    def called() -> Any:
        with RewardClient(url, **settings) as client:
            return call(client)

    return await asyncio.to_thread(called)


async def test_both_clients_give_every_column_as_records(tmp_path: Path) -> None:
    async with live(tmp_path, keys=(KEY,)) as url, AsyncRewardClient(url, key=KEY) as client:
        answer = await client.rewards(
            [TEXT], granularity=["token", "step", "sequence"], include=["tokens", "offsets", "logprobs", "ref_logprobs"]
        )
        assert answer == await blocking(
            f"{url}/v1/rewards",
            lambda other: other.rewards(
                [TEXT], granularity=["token", "step", "sequence"], include=["tokens", "offsets", "logprobs", "ref_logprobs"]
            ),
            key=KEY,
        )
    (item,) = answer.items
    assert (answer.beta, answer.reference_model, answer.revisions, item.reward) == (0.5, REFERENCE, {"prm@7"}, 10.5)
    assert item.tokens is not None
    assert item.steps is not None
    assert (item.tokens.rewards, item.tokens.end_token) == ([0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0], 6)
    assert (item.tokens.ids[:2], item.tokens.texts[:2], item.tokens.char_spans[:2]) == ([97, 98], ["a", "b"], [(0, 1), (1, 2)])
    assert (item.tokens.logprobs[1], item.tokens.reference_logprobs[1]) == (-1.0, -2.0)
    assert (item.steps.rewards, item.steps.char_spans, item.steps.token_spans, item.steps.end_token) == (
        [3.0, 7.5],
        [(0, 4), (4, 6)],
        [(0, 4), (4, 7)],
        1,
    )


async def test_inputs_go_in_pieces_and_come_back_in_order(tmp_path: Path) -> None:
    prm = CharacterPrm()
    async with live(tmp_path, prm=prm) as url, AsyncRewardClient(url, most_inputs=16) as client:
        answer = await client.rewards(inputs_of(40))
        other = await blocking(url, lambda one: one.rewards(inputs_of(40)), most_inputs=16)
    assert sorted(prm.requests) == [8, 8, 16, 16, 16, 16]
    assert [(item.index, item.id, item.reward) for item in answer.items] == [(place, str(place), expected(place)) for place in range(40)]
    assert other == answer


async def test_a_gateway_with_lower_limits_gets_smaller_pieces(tmp_path: Path) -> None:
    async with live(tmp_path, max_request_items=3) as url, AsyncRewardClient(url) as client:
        answer = await client.rewards(inputs_of(10))
        streamed = [item async for item in client.stream(inputs_of(10))]
        other = await blocking(url, lambda one: list(one.stream(inputs_of(10))))
    assert [item.reward for item in answer.items] == [expected(place) for place in range(10)]
    assert streamed == list(answer.items) == other
    async with live(tmp_path, max_request_bytes=300) as url, AsyncRewardClient(url, patience=SOON) as client:
        long: TextInput = {"id": "long", "prompt": "p", "response": "b" * 400}
        inputs = [*inputs_of(2), long, *inputs_of(2)]
        answer = await client.rewards(inputs)
        streamed = [item async for item in client.stream(inputs)]
        other = await blocking(url, lambda one: one.rewards(inputs))
        assert streamed == list(answer.items) == list(other.items) == await blocking(url, lambda one: list(one.stream(inputs)))
    assert [item.reward for item in answer.items] == [expected(0), expected(1), None, expected(0), expected(1)]
    refused = answer.items[2]
    assert (refused.index, refused.id, refused.refused, refused.revision, answer.revisions) == (2, "long", 413, "", {"prm@7"})
    assert re.match(r"too large even alone: .* 413: the request body exceeds 300 bytes", refused.error or "")


async def test_inputs_that_a_gateway_does_not_take_are_asked_for_apart_and_no_other_is_scored_twice(tmp_path: Path) -> None:
    long: TextInput = {"prompt": "p", "response": "b" * 3000}
    wrong: Any = {"prompt": 5, "response": "a"}
    prm = CharacterPrm(most_items=4)
    inputs = [*inputs_of(10), long, *inputs_of(10), wrong, *inputs_of(10)]
    async with live(tmp_path, prm=prm, max_request_bytes=2000) as url, AsyncRewardClient(url, patience=SOON) as client:
        answer = await client.rewards(inputs)
        assert sum(prm.requests) == 30
        # A wrong option is every input's, and is refused at once.
        with pytest.raises(RefusedError, match=r"422: body\.sequence_reduction") as refused:
            await client.rewards(inputs_of(3), sequence_reduction="most")  # pyright: ignore[reportArgumentType]
        assert not refused.value.about_inputs
        assert sum(prm.requests) == 30
    assert [item.index for item in answer.items if item.error is not None] == [10, 21]
    assert [item.reward for item in answer.items if item.error is None] == [expected(place) for place in range(10)] * 3
    assert [(answer.items[place].refused, "body.inputs.0.prompt" in (answer.items[place].error or "")) for place in (10, 21)] == [
        (413, False),
        (422, True),
    ]


async def test_spans_follow_their_inputs_into_their_pieces(tmp_path: Path) -> None:
    spans = [[[0, 1], [1, 3]], [[0, 2], [2, 3]], [[0, 3]]]
    inputs: list[TextInput] = [{"prompt": "p", "response": "abc"}] * 3
    async with live(tmp_path) as url, AsyncRewardClient(url, most_inputs=2) as client:
        answer = await client.rewards(inputs, granularity=["step"], steps={"mode": "char_spans", "spans": spans})
        with pytest.raises(RefusedError, match="3 entries for 2 inputs"):
            await client.rewards(inputs[:2], steps={"mode": "char_spans", "spans": spans})
    assert [item.steps.rewards for item in answer.items if item.steps] == [[0.0, 3.0], [0.5, 2.5], [3.0]]


async def test_what_one_input_lacks_is_its_own_error_and_what_a_request_lacks_is_raised(tmp_path: Path) -> None:
    async with live(tmp_path) as url, AsyncRewardClient(url) as client:
        answer = await client.rewards([{"prompt": "p", "response": FORBIDDEN}, TEXT])
        with pytest.raises(RefusedError, match="404: model prm@6 is not served any more") as refused:
            await client.rewards([TEXT], model="prm@6")
        with pytest.raises(RefusedError, match="the inputs are no JSON"):
            await client.rewards([{"prompt": "p", "response": "\ud800"}])
        assert (await client.rewards([])).items == []
    assert [(item.error or "")[:8] for item in answer.items] == ["9 tokens", ""]
    assert refused.value.status == 404


async def test_long_bodies_are_sent_in_gzip(tmp_path: Path) -> None:
    bodies: list[Any] = []

    async def keep(number: int, request: Request) -> Response:
        body = await request.body()
        bodies.append(json.loads(gzip.decompress(body)) if request.headers.get("content-encoding") == "gzip" else None)
        return Response(json.dumps({"data": [], "model_revision": "prm@1", "beta": 1, "reference_model": ""}))

    async with failing(keep) as url, AsyncRewardClient(url) as client:
        await client.rewards([{"prompt": "p", "response": "é" * 40_000}])
        await client.rewards([TEXT])
    assert (bodies[0]["inputs"][0]["response"], bodies[1]) == ("é" * 40_000, None)


@pytest.mark.parametrize("kind", ["async", "blocking"])
async def test_what_is_transient_is_asked_again(kind: str) -> None:
    async def twice(number: int, request: Request) -> Response:
        if number == 1:
            return Response(json.dumps({"detail": "prm: loading"}), status_code=503, headers={"Retry-After": "0"})
        if number == 2:
            return Response("<html>bad gateway</html>", status_code=502)
        return Response(json.dumps({"data": [], "model_revision": "prm@1", "beta": 0.05, "reference_model": "x"}))

    async with failing(twice) as url:
        if kind == "async":
            async with AsyncRewardClient(url, patience=SOON) as client:
                assert (await client.rewards([TEXT])).beta == 0.05
        else:
            assert (await blocking(url, lambda one: one.rewards([TEXT]), patience=SOON)).beta == 0.05


async def test_who_never_answers_is_unavailable_with_the_last_reason() -> None:
    async def never(number: int, request: Request) -> Response:
        return Response(json.dumps({"detail": f"attempt {number}"}), status_code=503)

    async with failing(never) as url, AsyncRewardClient(url, patience=SOON) as client:
        with pytest.raises(UnavailableError, match=r"no answer after 3 attempts; the last: .* 503: attempt 3"):
            await client.rewards([TEXT])
        with pytest.raises(UnavailableError, match="attempt 6"):
            _ = [item async for item in client.stream([TEXT])]
    async with AsyncRewardClient(url, patience=SOON) as client:
        with pytest.raises(UnavailableError, match=rf"{re.escape(url.removeprefix('http://'))}: ConnectError"):
            await client.rewards([TEXT])


@pytest.mark.parametrize("kind", ["async", "blocking"])
async def test_a_stream_goes_on_where_it_broke_off_and_after_a_new_version(kind: str) -> None:
    def line(**event: Any) -> bytes:
        return json.dumps(event).encode() + b"\n"

    async def broken(number: int, request: Request) -> Response:
        inputs = json.loads(await request.body())["inputs"]

        async def lines() -> AsyncIterator[bytes]:
            yield line(object="rewards.begin", model_revision=f"prm@{number}")
            yield line(object="rewards.item", index=0, id=inputs[0]["id"], sequence={"reward": float(number)})[:-9]
            yield line(object="rewards.item", index=0, id=inputs[0]["id"], sequence={"reward": float(number)})[-9:]
            if number == 1:
                # The rest of the line never comes.
                yield b'{"object": "rewards.item", "index": 1'
            elif number == 2:
                yield line(status=409, detail="the PRM went from prm@2 to prm@3")
            else:
                yield line(object="rewards.end", usage={})

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    async with failing(broken) as url:
        if kind == "async":
            async with AsyncRewardClient(url, patience=SOON) as client:
                items: list[ScoredInput] = [item async for item in client.stream(inputs_of(3))]
        else:
            items = await blocking(url, lambda one: list(one.stream(inputs_of(3))), patience=SOON)
    assert [(item.index, item.id, item.revision, item.reward) for item in items] == [
        (0, "0", "prm@1", 1.0),
        (1, "1", "prm@2", 2.0),
        (2, "2", "prm@3", 3.0),
    ]


async def test_a_stream_of_a_real_gateway_is_what_it_answers_at_once(tmp_path: Path) -> None:
    async with live(tmp_path) as url, AsyncRewardClient(url, most_inputs=25) as client:
        whole = await client.rewards(inputs_of(40), granularity=["token"], include=["tokens"])
        streamed = [item async for item in client.stream(inputs_of(40), granularity=["token"], include=["tokens"])]
    assert streamed == list(whole.items)


async def test_best_of_n_and_models(tmp_path: Path) -> None:
    async with live(tmp_path) as url, AsyncRewardClient(url) as client:
        best = await client.best_of_n(["ab", FORBIDDEN, "abcd"], prompt="p")
        voted = await client.best_of_n(["ab", "abcd", "ab"], prompt="p", method="vote", verifier={"kind": "equal"}, weight="none")
        card = (await client.models())[0]
        assert (
            [one["name"] for one in await client.verifiers()]
            == ["equal"]
            == await blocking(url, lambda one: [card["name"] for card in one.verifiers()])
        )
        other = await blocking(url, lambda one: one.best_of_n(["ab", FORBIDDEN, "abcd"], prompt="p"))
    assert (best.best, [one.index for one in best.ranking], best.revision) == (2, [2, 0, 1], "prm@7")
    assert (best.ranking[2].error or "")[:8] == "9 tokens"
    assert (voted.answer, voted.best, voted.votes[0].responses) == ("ab", 0, [0, 2])
    assert (card["revision"], other) == ("prm@7", best)


async def test_what_is_no_gateway_is_said_to_be_none() -> None:
    async def other(number: int, request: Request) -> Response:
        return Response("hello" if number == 1 else "{}" if number == 2 else "[]")

    async with failing(other) as url, AsyncRewardClient(url) as client:
        for _ in range(3):
            with pytest.raises(RefusedError, match="gateway of oprime"):
                await client.rewards([TEXT])


def test_address_and_key_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="set OPRIME_REWARDS"):
        RewardClient()
    (tmp_path / "keys").write_text("# mine\n\nsecret-key\n", encoding="utf-8")
    monkeypatch.setenv("OPRIME_REWARDS", "http://gateway:8080/")
    monkeypatch.setenv("OPRIME_REWARDS_KEY_FILE", str(tmp_path / "keys"))
    with RewardClient() as client:
        assert client.url == "http://gateway:8080"
        assert client._settings["headers"] == {"Authorization": "Bearer secret-key"}
    monkeypatch.setenv("OPRIME_REWARDS_KEY_FILE", str(tmp_path / "absent"))
    with pytest.raises(
        SettingsError, match=r"absent cannot be read: No such file or directory; write one of the gateway's keys into it, or"
    ):
        RewardClient()
    (tmp_path / "latin").write_bytes(b"\xe9" * 20)
    with pytest.raises(SettingsError, match=r"latin cannot be read: it is no text in UTF-8 .*; write one"):
        RewardClient("http://gateway:8080", key_file=tmp_path / "latin")


@given(st.lists(st.integers(0, 40), max_size=30), st.integers(1, 6), st.integers(1, 60))
def test_pieces_hold_every_input_once_in_order_within_both_limits(lengths: list[int], most_inputs: int, most_chars: int) -> None:
    inputs: list[TextInput] = [{"prompt": "", "response": "a" * length} for length in lengths]
    cut = list(pieces(inputs, {}, most_inputs=most_inputs, most_chars=most_chars))
    assert [item for piece in cut for item in piece.inputs] == inputs
    assert [piece.first for piece in cut] == [sum(len(one.inputs) for one in cut[:place]) for place in range(len(cut))]
    for piece in cut:
        chars = sum(len(str(item.get("response"))) for item in piece.inputs)
        assert 1 <= len(piece.inputs) <= most_inputs
        assert chars <= most_chars or len(piece.inputs) == 1


def test_lines_end_with_newlines_alone_however_they_arrive() -> None:
    text = "a\u2028b\r\x0c\x85é\nc\n\nd".encode()
    dice = random.Random(0)
    for _ in range(20):
        lines, found, rest = Lines(), list[bytes](), text
        while rest:
            size = dice.randint(1, 4)
            found += lines.feed(rest[:size])
            rest = rest[size:]
        assert found == ["a\u2028b\r\x0c\x85é".encode(), b"c", b""]


def test_waits_double_up_to_the_longest_and_heed_what_the_gateway_says() -> None:
    patience = Patience(first_wait_s=1.0, most_wait_s=8.0)
    for attempt, most in ((1, 1.0), (2, 2.0), (4, 8.0), (9, 8.0)):
        assert most / 2 <= patience.wait_s(attempt) <= most
    assert patience.wait_s(1, said=17.0) == 17.0
    assert (patience.wait_s(1, said=-5.0), patience.wait_s(1, said=1e9)) == (0.0, 80.0)
