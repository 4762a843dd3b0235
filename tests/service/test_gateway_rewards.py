"""POST /v1/rewards beyond the common case: encodings, streams, truncation, end tokens, and requests that are no JSON."""

import asyncio
import base64
import gzip
import json
import math
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from gateway_world import BETA, FORBIDDEN, KEY, REFERENCE, TEXT, CharacterPrm, World, is_problem, live, world
from oprime.wire.codec import floats_to_bytes, ids_to_bytes
from oprime_proto.v1 import prm_pb2

NDJSON = {"Accept": "application/x-ndjson"}
JSON = {"Content-Type": "application/json"}


def decoded(text: str, kind: str) -> list[float]:
    return np.frombuffer(base64.b64decode(text), dtype=kind).tolist()


async def lines_of(w: World, *inputs: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    answer = await w.client.post("/v1/rewards", json={"inputs": inputs, **fields}, headers=NDJSON)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson"), answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


async def test_base64_columns_hold_the_numbers_of_the_plain_ones(tmp_path: Path) -> None:
    everything: dict[str, Any] = {"granularity": ["token", "step"], "include": ["tokens", "offsets", "logprobs", "ref_logprobs"]}
    steps = {"steps": {"delimiter": "b"}, "step_reduction": "mean"}
    async with world(tmp_path) as w:
        (plain,) = (await w.rewards(TEXT, **everything, **steps))["data"]
        (packed,) = (await w.rewards(TEXT, **everything, **steps, encoding_format="base64"))["data"]
    kinds = {"ids": "<i4", "char_start": "<i4", "char_end": "<i4", "token_start": "<i4", "token_end": "<i4"}
    for part in ("tokens", "steps"):
        for name, column in plain[part].items():
            if isinstance(column, list) and name != "text":
                assert decoded(packed[part][name], kinds.get(name, "<f4")) == column, name
            else:
                assert packed[part][name] == column


async def test_a_step_without_a_reward_is_not_a_number_in_base64(tmp_path: Path) -> None:
    class WholeWords(CharacterPrm):
        """One token for all of the text."""

        async def Score(self, request: prm_pb2.ScoreRequest, context: grpc.aio.ServicerContext) -> prm_pb2.ScoreResponse:
            one = floats_to_bytes([1.0])
            answer = prm_pb2.ScoredResponse(response_ids=ids_to_bytes([5]), process_rewards=one, prm_logprobs=one, reference_logprobs=one)
            answer.token_texts.append("a.b")
            answer.char_starts.append(0)
            answer.char_ends.append(3)
            return prm_pb2.ScoreResponse(responses=[answer], prm_version=7, beta=BETA)

    asked: dict[str, Any] = {"granularity": ["step"], "steps": {"delimiter": "."}, "step_reduction": "max"}
    async with world(tmp_path, prm=WholeWords()) as w:
        (plain,) = (await w.rewards({"prompt": "p", "response": "a.b"}, **asked))["data"]
        (packed,) = (await w.rewards({"prompt": "p", "response": "a.b"}, **asked, encoding_format="base64"))["data"]
    assert plain["steps"]["rewards"] == [1.0, None]
    first, second = decoded(packed["steps"]["rewards"], "<f4")
    assert (first, math.isnan(second)) == (1.0, True)


async def test_numbers_are_printed_as_the_float32_they_are(tmp_path: Path) -> None:
    class Tenths(CharacterPrm):
        async def Score(self, request: prm_pb2.ScoreRequest, context: grpc.aio.ServicerContext) -> prm_pb2.ScoreResponse:
            answer = await super().Score(request, context)
            answer.beta = 0.05
            answer.responses[0].process_rewards = floats_to_bytes([0.1, 0.2, 1e-8])
            return answer

    async with world(tmp_path, prm=Tenths()) as w:
        answer = await w.client.post(
            "/v1/rewards", json={"inputs": [{"prompt": "p", "response": "ab"}], "granularity": ["token", "step", "sequence"]}
        )
    assert '"beta":0.05,' in answer.text
    assert '"rewards":[0.1,0.2,1e-8]' in answer.text
    # What is printed adds up.
    assert '"sequence":{"reward":0.30000001}' in answer.text


async def test_a_stream_is_the_answer_line_by_line(tmp_path: Path) -> None:
    inputs = [{"id": str(place), "prompt": "p", "response": "ab" if place != 20 else FORBIDDEN} for place in range(40)]
    prm = CharacterPrm()
    async with world(tmp_path, prm=prm) as w:
        whole = await w.rewards(*inputs)
        first, *items, last = await lines_of(w, *inputs)
    assert (first["object"], first["model_revision"], first["reference_model"]) == ("rewards.begin", "prm@7", REFERENCE)
    assert [{**item, "object": None} for item in items] == [{**item, "object": None} for item in whole["data"]]
    assert items[20]["error"]["detail"].startswith("9 tokens")
    assert last == {"object": "rewards.end", "usage": whole["usage"]}
    assert prm.requests == [40, 16, 16, 8]


async def test_a_stream_fails_with_a_status_before_it_begins_and_with_a_line_after(tmp_path: Path) -> None:
    class Failing(CharacterPrm):
        async def Score(self, request: prm_pb2.ScoreRequest, context: grpc.aio.ServicerContext) -> prm_pb2.ScoreResponse:
            if self.requests:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "restarting")
            return await super().Score(request, context)

    inputs = [{"prompt": "p", "response": "ab"}] * 20
    async with world(tmp_path, prm=Failing()) as w:
        lines = await lines_of(w, *inputs)
        assert [line.get("object") for line in lines] == ["rewards.begin", *["rewards.item"] * 16, None]
        assert (lines[-1]["status"], lines[-1]["detail"]) == (503, "prm: restarting")
        refused = await w.client.post("/v1/rewards", json={"inputs": inputs}, headers=NDJSON)
        is_problem(refused, 503, "restarting")
        is_problem(await w.client.post("/v1/rewards", json={"inputs": inputs, "model": "prm@1"}, headers=NDJSON), 404)


async def test_a_stream_never_mixes_versions(tmp_path: Path) -> None:
    class Training(CharacterPrm):
        async def Score(self, request: prm_pb2.ScoreRequest, context: grpc.aio.ServicerContext) -> prm_pb2.ScoreResponse:
            self.version = 7 + len(self.requests)
            return await super().Score(request, context)

    async with world(tmp_path, prm=Training()) as w:
        first, *items, last = await lines_of(w, *[{"prompt": "p", "response": "ab"}] * 18)
    assert (first["model_revision"], [item["index"] for item in items]) == ("prm@7", list(range(16)))
    assert last["status"] == 409
    assert (
        "the PRM went on from prm@7 while this answer was under way (model prm@7 is not served any more: the revision now is prm@8)"
        in last["detail"]
    )


@pytest.mark.parametrize(
    ("accept", "streams"),
    [
        ("application/x-ndjson", True),
        ("application/json, application/x-ndjson;q=0.5", True),
        ("application/x-ndjson; q=0", False),
        ("*/*", False),
        ("", False),
    ],
)
async def test_lines_come_to_those_who_name_them(tmp_path: Path, accept: str, streams: bool) -> None:
    async with world(tmp_path) as w:
        answer = await w.client.post("/v1/rewards", json={"inputs": [TEXT]}, headers={"Accept": accept})
    assert (answer.headers["content-type"] == "application/x-ndjson") is streams


async def test_messages_may_come_in_parts(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "1+"}, {"type": "text", "text": "1?"}]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": [{"type": "text", "text": "2"}]}]
    prm = CharacterPrm()
    async with world(tmp_path, prm=prm) as w:
        answer = await w.rewards({"messages": messages}, granularity=["token"])
    assert answer["data"][0]["tokens"]["rewards"] == [0.0, 0.5]
    assert [message.content for message in prm.items[0].chat.messages] == ["1+1?"]


async def test_the_end_token_can_be_left_out_of_everything(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"granularity": ["token", "step", "sequence"], "include": ["tokens"], "end_token": "exclude"}
    async with world(tmp_path) as w:
        (item,) = (await w.rewards(TEXT, **asked))["data"]
        (empty,) = (await w.rewards({"prompt": "p", "response": ""}, **asked))["data"]
    assert item["tokens"]["rewards"] == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
    assert ("end_token" in item["tokens"], "end_token" in item["steps"]) == (False, False)
    assert (item["steps"]["rewards"], item["steps"]["token_end"], item["sequence"]["reward"]) == ([3.0, 4.5], [4, 6], 7.5)
    assert (empty["tokens"]["rewards"], empty["steps"]["rewards"], empty["sequence"]["reward"]) == ([], [0.0], 0.0)


@pytest.mark.parametrize(
    "steps", [{"mode": "char_spans", "spans": [[]]}, {"mode": "token_spans", "spans": [[[0, 1]]]}, {"mode": "none"}, {}]
)
async def test_the_sums_of_an_empty_response_are_equal_however_it_is_cut(tmp_path: Path, steps: dict[str, Any]) -> None:
    class Ending(CharacterPrm):
        async def Score(self, request: prm_pb2.ScoreRequest, context: grpc.aio.ServicerContext) -> prm_pb2.ScoreResponse:
            answer = await super().Score(request, context)
            answer.responses[0].process_rewards = floats_to_bytes([0.25])
            return answer

    async with world(tmp_path, prm=Ending()) as w:
        (item,) = (await w.rewards({"prompt": "p", "response": ""}, granularity=["token", "step", "sequence"], steps=steps))["data"]
    assert (item["tokens"]["rewards"], item["steps"]["rewards"], item["sequence"]["reward"]) == ([0.25], [0.25], 0.25)
    assert (item["tokens"]["end_token"], item["steps"]["end_token"]) == (0, 0)


async def test_truncation_and_special_tokens_are_asked_for_and_what_was_left_out_is_said(tmp_path: Path) -> None:
    class Short(CharacterPrm):
        """Has room for two tokens of a response."""

        async def Score(self, request: prm_pb2.ScoreRequest, context: grpc.aio.ServicerContext) -> prm_pb2.ScoreResponse:
            answer = await super().Score(request, context)
            one = answer.responses[0]
            dropped = len(one.token_texts) - 2
            for column in (one.token_texts, one.char_starts, one.char_ends):
                del column[2:]
            for name in ("response_ids", "process_rewards", "prm_logprobs", "reference_logprobs"):
                setattr(one, name, getattr(one, name)[:8])
            one.has_end_token, one.dropped_response_tokens = False, dropped
            return answer

    prm = Short()
    async with world(tmp_path, prm=prm) as w:
        (item,) = (await w.rewards(TEXT, truncation="right", special_tokens=True, granularity=["step", "sequence"]))["data"]
        await w.rewards(TEXT)
        spans = {"mode": "char_spans", "spans": [[[0, 1], [1, 5], [5, 6]]]}
        (cut,) = (await w.rewards(TEXT, truncation="right", granularity=["step"], steps=spans))["data"]
    assert item["truncated"] == {"prompt_tokens": 0, "response_tokens": 5}
    assert (item["steps"]["char_end"], item["steps"]["rewards"], item["sequence"]["reward"]) == ([2], [0.5], 0.5)
    assert (cut["steps"]["char_end"], cut["steps"]["rewards"]) == ([1, 2], [0.0, 0.5])
    assert [one.truncation for one in prm.items[:2]] == [prm_pb2.TRUNCATION_RIGHT, prm_pb2.TRUNCATION_UNSPECIFIED]
    assert [one.chat.special_tokens for one in prm.items[:2]] == [True, False]


async def test_a_reward_that_is_no_number_is_that_item_s_error(tmp_path: Path) -> None:
    class Diverged(CharacterPrm):
        async def Score(self, request: prm_pb2.ScoreRequest, context: grpc.aio.ServicerContext) -> prm_pb2.ScoreResponse:
            answer = await super().Score(request, context)
            answer.responses[0].process_rewards = floats_to_bytes([math.nan] * 3)
            return answer

    async with world(tmp_path, prm=Diverged()) as w:
        first, second = (await w.rewards({"prompt": "p", "response": "ab"}, TEXT))["data"]
    assert "no finite number" in first["error"]["detail"]
    assert second["sequence"]["reward"] == 10.5


async def test_discounts_count_from_the_first_step(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        (item,) = (await w.rewards(TEXT, sequence_reduction="discounted_sum", discount=0.5))["data"]
        (mean,) = (await w.rewards(TEXT, sequence_reduction="discounted_mean", discount=0.5))["data"]
    assert (item["sequence"]["reward"], mean["sequence"]["reward"]) == (3.0 + 7.5 / 2, 4.5)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"inputs": [{"prompt": "p", "response": "\\ud800"}]}', "half a character (the lone surrogate \\ud800)"),
        (b'{"inputs": [{"prompt": "p", "response": "a", "\\udfff": 1}]}', "lone surrogate \\udfff"),
        (b'{"inputs": [{"prompt": "p", "response": "\xed\xa0\x80"}]}', "byte 41 is no UTF-8"),
        (b'{"inputs": NaN}', "NaN is no number of JSON"),
        (b'{"inputs": ' + b"[" * 100_000, "recursion"),
        (b'{"inputs": ' + b"1" * 5000 + b"}", "integer string conversion"),
        (b'{"inputs": [', "Expecting value at line 1"),
        (b"", "body: Field required"),
    ],
)
async def test_a_body_that_is_no_json_is_refused_with_the_reason(tmp_path: Path, body: bytes, says: str) -> None:
    async with world(tmp_path) as w:
        for path in ("/v1/rewards", "/v1/verify"):
            is_problem(await w.client.post(path, content=body, headers=JSON), 422, says)


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": [TEXT], "granularity": ["token", "step", "sequence"], "include": ["tokens", "offsets", "logprobs"]},
        {"inputs": [{"prompt": "p", "response": "ab", "id": "x"}, TEXT], "model": "prm@7", "steps": {"delimiter": "b"}},
        {"inputs": [TEXT], "sequence_reduction": "discounted_sum", "discount": 1},
        {"inputs": [{"prompt_token_ids": [1, 2], "response_token_ids": [3]}], "granularity": ["token"]},
        {"inputs": [TEXT], "granularity": ["token"], "steps": {"mode": "char_spans", "spans": [[[0, 2], [3, 6]]]}},
        {"inputs": [TEXT], "granularity": []},
        {"inputs": [{"prompt_token_ids": [1.0, True], "response_token_ids": ["3"]}]},
        {"inputs": [{**TEXT, "special_tokens": 1}], "discount": 2},
        {"inputs": [TEXT], "special_tokens": 1, "unknown": None},
        {"inputs": TEXT},
        [],
    ],
)
async def test_a_body_is_read_alike_under_every_name_of_json(tmp_path: Path, body: Any) -> None:
    async with world(tmp_path) as w:
        names = ("application/json", "application/json; charset=utf-8", "application/json;charset=UTF-8", "application/problem+json")
        found = [await w.client.post("/v1/rewards", content=json.dumps(body).encode(), headers={"Content-Type": name}) for name in names]
    first, *others = ((answer.status_code, {**answer.json(), "id": None, "created": None}) for answer in found)
    assert all(other == first for other in others)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (None, "there is no Content-Type"),
        ("", "there is no Content-Type"),
        ("application/x-www-form-urlencoded", "Content-Type is application/x-www-form-urlencoded"),
        ("text/json", "Content-Type is text/json"),
        ("\xff", "Content-Type is"),
    ],
)
async def test_a_body_that_is_not_called_json_is_refused_with_the_header_that_it_needs(tmp_path: Path, name: str | None, says: str) -> None:
    headers = {} if name is None else {b"Content-Type": name.encode("latin-1")}
    async with world(tmp_path) as w:
        for path in ("/v1/rewards", "/v1/verify", "/v1/best-of-n", "/pooling"):
            answer = await w.client.post(path, content=json.dumps({"inputs": [TEXT]}).encode(), headers=headers)
            is_problem(answer, 422, says, "`Content-Type: application/json`")
        is_problem(await w.client.post("/v1/rewards", headers=headers), 422, "body: Field required")


async def test_spans_are_checked_where_only_tokens_are_asked_for(tmp_path: Path) -> None:
    spans = {"mode": "char_spans", "spans": [[[0, 2], [3, 6]]]}
    async with world(tmp_path) as w:
        (item,) = (await w.rewards(TEXT, granularity=["token"], steps=spans))["data"]
    assert "must be [2, end)" in item["error"]["detail"]


async def test_a_whole_pair_of_surrogates_is_one_character(tmp_path: Path) -> None:
    body = b'{"inputs": [{"prompt": "p", "response": "\\ud83d\\ude00"}], "granularity": ["token"]}'
    async with world(tmp_path) as w:
        answer = await w.client.post("/v1/rewards", content=body, headers=JSON)
    assert answer.json()["data"][0]["tokens"]["rewards"] == [0.0, 0.5]


async def test_bodies_come_and_go_compressed(tmp_path: Path) -> None:
    inputs = [{"prompt": "p", "response": "ab"}] * 100
    packed = gzip.compress(json.dumps({"inputs": inputs, "granularity": ["token"]}).encode())
    async with world(tmp_path) as w:
        answer = await w.client.post("/v1/rewards", content=packed, headers={**JSON, "Content-Encoding": "gzip"})
        plain = await w.client.post("/v1/rewards", json={"inputs": inputs}, headers={"Accept-Encoding": "identity"})
        small = await w.client.post("/v1/rewards", json={"inputs": inputs[:1]})
    assert len(answer.json()["data"]) == 100
    assert (answer.headers["content-encoding"], "Accept-Encoding" in answer.headers["vary"]) == ("gzip", True)
    assert ("content-encoding" in plain.headers, "content-encoding" in small.headers) == (False, False)


async def test_a_compressed_body_is_bounded_by_what_it_unpacks_to(tmp_path: Path) -> None:
    packed = {**JSON, "Content-Encoding": "gzip"}
    whole = gzip.compress(json.dumps({"inputs": [TEXT]}).encode())

    async def in_pieces(data: bytes) -> AsyncIterator[bytes]:
        for start in range(0, len(data), 7):
            yield data[start : start + 7]

    async with world(tmp_path, max_request_bytes=20_000) as w:
        bomb = gzip.compress(b" " * 10_000_000)
        assert len(bomb) < 20_000
        is_problem(await w.client.post("/v1/rewards", content=bomb, headers=packed), 413, "unpacked request body exceeds 20000 bytes")
        is_problem(await w.client.post("/v1/rewards", content=b"{}", headers=packed), 400, "no gzip stream")
        is_problem(await w.client.post("/v1/rewards", content=whole[:-9], headers=packed), 400, "ends before its gzip stream does")
        is_problem(await w.client.post("/v1/rewards", content=whole * 2, headers=packed), 400, "something follows the gzip stream")
        deflated = await w.client.post("/v1/rewards", content=zlib.compress(b"{}"), headers={**JSON, "Content-Encoding": "br"})
        is_problem(deflated, 415, "content encoding 'br'")
        assert deflated.headers["accept-encoding"] == "gzip"
        assert (await w.client.post("/v1/rewards", content=in_pieces(whole), headers=packed)).status_code == 200


async def test_a_version_that_answers_by_name_is_asked_for_by_name(tmp_path: Path) -> None:
    class Keeping(CharacterPrm):
        """Keeps version 5 beside the newest."""

        async def Status(
            self, request: prm_pb2.PrmServiceStatusRequest, context: grpc.aio.ServicerContext
        ) -> prm_pb2.PrmServiceStatusResponse:
            return prm_pb2.PrmServiceStatusResponse(prm_version=7, versions=[5, 7])

        async def Score(self, request: prm_pb2.ScoreRequest, context: grpc.aio.ServicerContext) -> prm_pb2.ScoreResponse:
            self.version = request.prm_version if request.HasField("prm_version") else 7
            return await super().Score(request, context)

    async with world(tmp_path, prm=Keeping()) as w:
        assert (await w.rewards(TEXT, model="prm@5"))["model_revision"] == "prm@5"
        assert (await w.rewards(TEXT))["model_revision"] == "prm@7"
        for model in ("prm@6", "prm@99999999999999999999999"):
            is_problem(await w.client.post("/v1/rewards", json={"inputs": [TEXT], "model": model}), 404, "there are prm@5, prm@7")


async def test_a_name_that_no_folder_can_have_is_no_run(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        is_problem(await w.client.get(f"/v1/runs/{'a' * 256}"), 404, "no run")
        is_problem(await w.client.get(f"/v1/runs/{'a' * 255}"), 404, "no run")


async def test_the_document_says_which_forms_an_input_has_and_what_may_be_answered(tmp_path: Path) -> None:
    async with world(tmp_path, keys=(KEY,)) as w:
        document = (await w.client.get("/openapi.json", headers={"Authorization": f"Bearer {KEY}"})).json()
    schemas = document["components"]["schemas"]
    forms = schemas["RewardInput"]["oneOf"]
    assert [form["required"] for form in forms] == [["prompt", "response"], ["messages"], ["prompt_token_ids", "response_token_ids"]]
    assert all(form["additionalProperties"] is False for form in forms)
    assert forms[0]["properties"]["messages"] == {"type": "null"}
    assert forms[2]["properties"]["prompt_token_ids"]["items"] == {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
    rewards = document["paths"]["/v1/rewards"]["post"]
    assert {"403", "404", "412", "413", "422", "503"} <= set(rewards["responses"])
    assert set(rewards["responses"]["404"]["content"]) == {"application/problem+json"}
    assert set(rewards["responses"]["200"]["content"]) == {"application/json", "application/x-ndjson"}
    assert rewards["security"] == [{"key": []}, {}]
    assert "security" not in document["paths"]["/healthz"]["get"]
    assert {"RewardsBegin", "StreamedItem", "RewardsEnd", "Problem"} <= set(schemas)


async def test_raw_text_is_passed_on_as_it_stands(tmp_path: Path) -> None:
    prm = CharacterPrm()
    async with world(tmp_path, prm=prm) as w:
        (item,) = (await w.rewards({"prompt": "<|user|>q", "response": "ab", "raw": True}, granularity=["token"]))["data"]
        refused = await w.client.post("/v1/rewards", json={"inputs": [{"prompt_token_ids": [1], "response_token_ids": [1], "raw": True}]})
    assert item["tokens"]["rewards"] == [0.0, 0.5]
    assert (prm.items[0].text.prompt, prm.items[0].text.response) == ("<|user|>q", "ab")
    is_problem(refused, 422, "raw is given without prompt and response")


MALFORMED = [
    b"POST /v1/rewards HTTP/1.1\r\nHost: localhost\r\nContent-Length: many\r\n\r\n",
    b"POST /v1/rewards HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{}",
    b"POST /v1/rewards HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET /v1/runs/%ff%00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /v1/runs/\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b'POST /v1/rewards HTTP/1.1\r\nHost: localhost\r\nIf-Match: "\xff"\r\nContent-Length: 2\r\nContent-Type: application/json\r\n\r\n{}',
    b"POST /v1/rewards HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
]


async def test_clients_that_speak_no_http_or_leave_early_harm_nobody(tmp_path: Path) -> None:
    async with live(tmp_path) as url:
        host, port = url.removeprefix("http://").split(":")

        async def said_to(data: bytes) -> bytes:
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(data)
            await writer.drain()
            writer.write_eof()
            answer = await reader.read()
            writer.close()
            return answer

        for data in MALFORMED:
            status = (await said_to(data))[:12]
            assert status in (b"HTTP/1.1 400", b"HTTP/1.1 404", b"HTTP/1.1 422"), (data, status)
        body = json.dumps({"inputs": [TEXT] * 40}).encode()
        head = f"POST /v1/rewards HTTP/1.1\r\nHost: localhost\r\nAccept: application/x-ndjson\r\nContent-Length: {len(body)}\r\n"
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.transport.abort()
        async with httpx.AsyncClient(base_url=url) as client:
            assert (await client.post("/v1/rewards", json={"inputs": [TEXT]})).status_code == 200
