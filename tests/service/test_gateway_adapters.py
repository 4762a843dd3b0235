"""Other servers' shapes: requests as other trainers send them, read in their sources, and what these read of the answers.

The PRM of these tests has one token per character. Its reward of token i of a response is i/2, so that a response of n tokens has the
reward n (n - 1) / 4.
"""

import base64
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from gateway_world import FORBIDDEN, CharacterPrm, World, is_problem, world
from oprime.wire.codec import ids_from_bytes

ROUTES = ("/get_reward", "/pooling", "/classify", "/score", "/v1/score", "/v1/classify", "/v1/embeddings", "/slime")


async def post(w: World, path: str, body: dict[str, Any]) -> Any:
    answer = await w.client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_openrlhf_reads_rewards_scores_and_extra_logs(tmp_path: Path) -> None:
    # One query at a time, decoded with its special tokens; labels are whatever the data set has.
    body = {"query": ["<s>What?abc</s>"], "prompts": ["What?"], "labels": [None]}
    prm = CharacterPrm()
    async with world(tmp_path, prm=prm) as w:
        answer = await post(w, "/get_reward", body)
        several = await post(w, "/get_reward", {"query": ["ab", "abcd"], "labels": ["1", {"a": 2}], "extra": 1})
    assert answer == {"rewards": [10.5], "scores": [10.5], "extra_logs": {"response_tokens": [7], "reward_per_token": [1.5]}}
    assert (prm.items[0].text.prompt, prm.items[0].text.response) == ("<s>What?", "abc</s>")
    assert (several["rewards"], prm.items[1].text.prompt) == ([0.5, 3.0], "")


async def test_a_query_that_does_not_hold_its_prompt_is_parted_by_the_chat_template(tmp_path: Path) -> None:
    prm = CharacterPrm()
    async with world(tmp_path, prm=prm) as w:
        await post(w, "/get_reward", {"query": ["a b"], "prompts": ["a  "], "labels": [""]})
    assert (prm.items[0].text.prompt, prm.items[0].text.response) == ("", "a b")


async def test_pooling_gives_a_row_for_each_token_of_the_input(tmp_path: Path) -> None:
    # PRM-style clients of vLLM: task token_classify, raw numbers, one row per token, as many as the tokenizer gives.
    async with world(tmp_path) as w:
        text = await post(w, "/pooling", {"model": "my/prm", "input": "abc", "task": "token_classify", "use_activation": False})
        ids = await post(w, "/pooling", {"model": "my/prm", "input": [[9, 5, 6], [9, 5]]})
        one = await post(w, "/pooling", {"input": [9, 5, 6]})
        packed = await post(w, "/pooling", {"input": [9, 5, 6], "encoding_format": "base64"})
        whole = await post(w, "/pooling", {"input": ["abc", "ab"], "task": "classify"})
    assert text["data"] == [{"index": 0, "object": "pooling", "data": [[0.0], [0.0], [0.0], [0.0], [0.5], [1.0]]}]
    assert (text["object"], text["model"], text["usage"]) == ("list", "prm@7", {"prompt_tokens": 6, "total_tokens": 6})
    assert [entry["data"] for entry in ids["data"]] == [[[0.0], [0.0], [0.5]], [[0.0], [0.0]]]
    assert one["data"][0]["data"] == [[0.0], [0.0], [0.5]]
    assert np.frombuffer(base64.b64decode(packed["data"][0]["data"]), dtype="<f4").tolist() == [0.0, 0.0, 0.5]
    assert [entry["data"] for entry in whole["data"]] == [[1.5], [0.5]]


async def test_pooling_takes_conversations_and_limits(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "q"}]}, {"role": "assistant", "content": "ab", "name": "x"}]
    prm = CharacterPrm()
    async with world(tmp_path, prm=prm) as w:
        answer = await post(w, "/pooling", {"messages": messages})
        await post(w, "/pooling", {"input": "abc", "truncate_prompt_tokens": -1})
        await post(w, "/pooling", {"input": "abc", "truncate_prompt_tokens": 5, "truncation_side": "left"})
        await post(w, "/pooling", {"input": "abc"})
        is_problem(await w.client.post("/pooling", json={"messages": [messages[0], messages[0]]}), 422, "must be the assistant's")
    assert answer["data"][0]["data"][-3:] == [[0.0], [0.5], [1.0]]
    assert [(item.truncation, item.max_tokens) for item in prm.items] == [(0, 0), (2, 0), (1, 5), (0, 0)]


async def test_verl_reads_the_last_probability_of_classify(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        answer = await post(w, "/classify", {"model": "my/rm", "input": "abc", "use_activation": False})
        squashed = await post(w, "/classify", {"model": "my/rm", "input": ["a", "abc"], "use_activation": True})
    assert answer["data"][-1]["probs"][-1] == 1.5
    assert answer["data"] == [{"index": 0, "label": None, "probs": [1.5], "num_classes": 1}]
    assert [entry["probs"] for entry in squashed["data"]] == [[0.5], [pytest.approx(0.8175745)]]


async def test_verl_reads_the_last_number_of_the_last_embedding_of_sglang(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        answer = await post(w, "/v1/embeddings", {"model": "my/rm", "input": "abc"})
        classified = await post(w, "/v1/classify", {"model": "my/rm", "input": "abc"})
    assert answer["data"][-1]["embedding"][-1] == 1.5
    assert classified["data"][0] == {"index": 0, "label": None, "probs": [1.5], "num_classes": 1}


async def test_sglang_s_own_classify_answers_one_object_per_text(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        several = await post(w, "/classify", {"model": "my/rm", "text": ["abc", "ab"]})
        one = await post(w, "/classify", {"text": "abc"})
        ids = await post(w, "/classify", {"input_ids": [[1, 5, 6, 7]]})
    assert [entry["embedding"][0] for entry in several] == [1.5, 0.5]
    assert (one["embedding"], one["meta_info"]["prompt_tokens"], one["meta_info"]["model"]) == ([1.5], 6, "prm@7")
    assert ids[0]["embedding"] == [1.5]


@pytest.mark.parametrize("names", [("queries", "documents"), ("queries", "items"), ("text_1", "text_2"), ("data_1", "data_2")])
async def test_score_takes_a_prompt_and_its_responses(tmp_path: Path, names: tuple[str, str]) -> None:
    first, second = names
    prm = CharacterPrm()
    async with world(tmp_path, prm=prm) as w:
        answer = await post(w, "/score", {"model": "m", first: "q", second: ["a", "ab"]})
        pairs = await post(w, "/v1/score", {first: ["p", "q"], second: ["a", "ab"]})
        is_problem(await w.client.post("/score", json={first: ["p", "q"], second: ["a"] * 3}), 422, "2 queries for 3 documents")
    assert answer["data"] == [{"index": 0, "object": "score", "score": 0.5}, {"index": 1, "object": "score", "score": 1.5}]
    assert [item.chat.messages[0].content for item in prm.items] == ["q", "q", "p", "q"]
    assert pairs["data"] == answer["data"]


async def test_slime_takes_the_body_as_the_reward(tmp_path: Path) -> None:
    prm = CharacterPrm()
    body = {"prompt": "<|user|>q<|assistant|>", "response": "abc", "label": "42"}
    async with world(tmp_path, prm=prm) as w:
        assert await post(w, "/slime", body) == 1.5
        assert await post(w, "/slime?details=true", body) == {"reward": 1.5, "token_rewards": [0.0, 0.5, 1.0]}
        assert await post(w, "/slime", {**body, "prompt": [{"role": "user", "content": "q"}]}) == 3.0
    assert (prm.items[0].text.prompt, prm.items[0].text.response) == ("<|user|>q<|assistant|>", "abc")
    assert prm.items[2].chat.response == "abc"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/get_reward", {"query": ["ab", FORBIDDEN], "prompts": ["a", "x"], "labels": [1, 2]}),
        ("/pooling", {"input": ["ab", FORBIDDEN]}),
        ("/classify", {"input": ["ab", FORBIDDEN]}),
        ("/classify", {"text": ["ab", FORBIDDEN]}),
        ("/score", {"queries": "q", "documents": ["ab", FORBIDDEN]}),
    ],
)
async def test_where_a_reward_is_missing_the_request_fails_for_good(tmp_path: Path, path: str, body: dict[str, Any]) -> None:
    async with world(tmp_path) as w:
        is_problem(await w.client.post(path, json=body), 422, "input 1 cannot be scored: 9 tokens exceed")


@pytest.mark.parametrize("path", ROUTES)
async def test_every_shape_knows_limits_keys_and_a_run_without_a_prm(tmp_path: Path, path: str) -> None:
    bodies: dict[str, dict[str, Any]] = {
        "/get_reward": {"query": ["a"] * 3, "labels": None},
        "/score": {"queries": "q", "documents": ["a"] * 3},
        "/v1/score": {"queries": "q", "documents": ["a"] * 3},
        "/slime": {"prompt": "p", "response": "a"},
    }
    body = bodies.get(path, {"input": ["a"] * 3})
    async with world(tmp_path, process_weight=0.0) as w:
        is_problem(await w.client.post(path, json=body), 404, "this run has no PRM")
    async with world(tmp_path, max_request_items=2) as w:
        if path != "/slime":
            is_problem(await w.client.post(path, json=body), 413, "3 inputs exceed 2")
        await w.servers["prm"].stop(0)
        away = await w.client.post(path, json={**body, **({"query": ["a"], "documents": "a", "input": "a"} if path != "/slime" else {})})
        is_problem(away, 503, "prm: ")
    async with world(tmp_path, keys=("a-key-of-somebody-else",)) as w:
        is_problem(await w.client.post(path, json=body), 401)


async def test_a_model_that_names_a_version_is_a_pin(tmp_path: Path) -> None:
    async with world(tmp_path) as w:

        async def asked(model: str | None) -> httpx.Response:
            return await w.client.post("/classify", json={"input": "a", "model": model})

        assert [(await asked(model)).status_code for model in ("my/model", None, "prm", "prm@7")] == [200] * 4
        is_problem(await asked("prm@6"), 404, "the revision now is prm@7")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, while vLLM is imported
async def test_vllm_s_own_classes_make_the_requests_and_read_the_answers(tmp_path: Path) -> None:
    from vllm.entrypoints.pooling.classify.protocol import ClassificationCompletionRequest, ClassificationResponse
    from vllm.entrypoints.pooling.pooling.protocol import PoolingChatRequest, PoolingCompletionRequest, PoolingResponse
    from vllm.entrypoints.pooling.scoring.protocol import ScoreQueriesDocumentsRequest, ScoreResponse, ScoreTextRequest

    messages: Any = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "ab"}]
    exchanges = [
        ("/pooling", PoolingCompletionRequest(model="m", input="abc", task="token_classify"), PoolingResponse),
        ("/pooling", PoolingCompletionRequest(input=[[1, 2], [3, 4, 5]], truncate_prompt_tokens=-1), PoolingResponse),
        ("/pooling", PoolingCompletionRequest(input=["abc"], encoding_format="base64"), PoolingResponse),
        ("/pooling", PoolingChatRequest(messages=messages), PoolingResponse),
        ("/classify", ClassificationCompletionRequest(input=["abc", "d"], use_activation=False), ClassificationResponse),
        ("/score", ScoreQueriesDocumentsRequest(queries="q", documents=["a", "b"]), ScoreResponse),
        ("/score", ScoreTextRequest(text_1=["p", "q"], text_2=["a", "b"]), ScoreResponse),
    ]
    async with world(tmp_path) as w:
        for path, sent, read in exchanges:
            answer = await w.client.post(path, content=sent.model_dump_json(), headers={"Content-Type": "application/json"})
            assert answer.status_code == 200, answer.text
            parsed = read.model_validate(answer.json())
            assert parsed.model_dump(exclude_none=True).items() >= {"object": "list", "model": "prm@7"}.items()


def test_the_fake_prm_scores_all_but_the_first_of_the_token_ids() -> None:
    from oprime_gateway.adapters.asking import token_item

    item = token_item([9, 5, 6])
    assert [ids_from_bytes(ids).tolist() for ids in (item.tokens.prompt_ids, item.tokens.response_ids)] == [[9], [5, 6]]
