"""The HTTP API on real gRPC servers whose servicers answer by a rule that can be checked by hand."""

import json
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway_world import BETA, FORBIDDEN, KEY, REFERENCE, TEXT, CharacterPrm, ShortPrm, SilentPrm, is_problem, settings_of, world
from oprime.runtime.setting_rules import SERVICES
from oprime_gateway.app import addresses
from oprime_proto.v1 import common_pb2, prm_pb2


async def test_steps_and_sequence_are_returned_unless_told_otherwise(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        answer = await w.rewards({"id": "x", **TEXT})
    (item,) = answer["data"]
    assert item == {
        "index": 0,
        "id": "x",
        "steps": {
            "rewards": [3.0, 7.5],
            "char_start": [0, 4],
            "char_end": [4, 6],
            "token_start": [0, 4],
            "token_end": [4, 7],
            "end_token": 1,
        },
        "sequence": {"reward": 10.5},
    }
    assert {name: answer[name] for name in ("object", "model", "model_revision", "prm_version", "beta", "scale", "reference_model")} == {
        "object": "rewards",
        "model": "prm",
        "model_revision": "prm@7",
        "prm_version": 7,
        "beta": BETA,
        "scale": "beta_log_ratio",
        "reference_model": REFERENCE,
    }
    assert answer["usage"] == {"prompt_tokens": 3, "response_tokens": 7, "failed_inputs": 0}


async def test_every_column_of_the_tokens_can_be_asked_for(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        answer = await w.rewards(
            {"prompt": "p", "response": "\U0001f600é"}, granularity=["token"], include=["tokens", "offsets", "logprobs", "ref_logprobs"]
        )
    (item,) = answer["data"]
    assert item == {
        "index": 0,
        "tokens": {
            "rewards": [0.0, 0.5, 1.0],
            "ids": [0x1F600, 0xE9, 0],
            "text": ["\U0001f600", "é", "<eos>"],
            "char_start": [0, 1, 2],
            "char_end": [1, 2, 2],
            "logprobs": [0.0, -1.0, -2.0],
            "ref_logprobs": [0.0, -2.0, -4.0],
            "end_token": 2,
        },
    }


async def test_a_reward_is_beta_times_the_log_ratio(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        answer = await w.rewards(TEXT, granularity=["token", "step", "sequence"], include=["logprobs", "ref_logprobs"])
    tokens = answer["data"][0]["tokens"]
    by_hand = [answer["beta"] * (ours - theirs) for ours, theirs in zip(tokens["logprobs"], tokens["ref_logprobs"], strict=True)]
    assert tokens["rewards"] == pytest.approx(by_hand, abs=1e-5)
    assert math.fsum(tokens["rewards"]) == pytest.approx(math.fsum(answer["data"][0]["steps"]["rewards"]))
    assert math.fsum(tokens["rewards"]) == pytest.approx(answer["data"][0]["sequence"]["reward"])


async def test_messages_score_the_last_assistant_turn(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]
    async with world(tmp_path) as w:
        answer = await w.rewards({"messages": messages}, granularity=["token"])
    assert answer["data"][0]["tokens"]["rewards"] == [0.0, 0.5]


async def test_token_ids_are_scored_as_they_are(tmp_path: Path) -> None:
    item = {"prompt_token_ids": [1], "response_token_ids": [5, 6, 7]}
    async with world(tmp_path) as w:
        answer = await w.rewards(
            item, granularity=["token", "step"], include=["tokens", "offsets"], steps={"mode": "token_spans", "spans": [[[0, 1], [1, 3]]]}
        )
    result = answer["data"][0]
    assert result["tokens"]["ids"] == [5, 6, 7]
    assert result["tokens"]["char_start"] == [0, 3, 6]
    assert result["steps"]["rewards"] == [0.0, 1.5]
    assert result["steps"]["char_end"] == [3, 9]


@pytest.mark.parametrize(
    ("steps", "rewards"),
    [
        ({"mode": "none"}, [10.5]),
        ({"mode": "delimiter", "delimiter": "b"}, [0.5, 10.0]),
        ({"mode": "char_spans", "spans": [[[0, 1], [1, 5], [5, 6]]]}, [0.0, 5.0, 5.5]),
        ({"mode": "token_spans", "spans": [[[0, 6], [6, 7]]]}, [7.5, 3.0]),
    ],
)
async def test_ways_to_cut_steps(tmp_path: Path, steps: dict[str, Any], rewards: list[float]) -> None:
    async with world(tmp_path) as w:
        answer = await w.rewards(TEXT, steps=steps)
    assert answer["data"][0]["steps"]["rewards"] == rewards
    assert answer["data"][0]["sequence"]["reward"] == 10.5


@pytest.mark.parametrize(
    ("step", "sequence", "rewards", "reward"),
    [
        ("mean", "min", [0.75, 2.5], 0.75),
        ("last", "mean", [1.5, 3.0], 2.25),
        ("min", "last", [0.0, 2.0], 2.0),
        ("sum", "prod", [3.0, 7.5], 22.5),
        ("max", "max", [1.5, 3.0], 3.0),
        # 10.5 by 7 tokens, of which the first step has 4.
        ("sum_per_token", "sum_per_token", [0.75, 2.5], 3.25 / 7),
        ("sum_per_root_token", "sum", [1.5, 7.5 / math.sqrt(3)], 1.5 + 7.5 / math.sqrt(3)),
    ],
)
async def test_reductions_are_applied_one_after_the_other(
    tmp_path: Path, step: str, sequence: str, rewards: list[float], reward: float
) -> None:
    async with world(tmp_path) as w:
        answer = await w.rewards(TEXT, step_reduction=step, sequence_reduction=sequence)
    assert answer["data"][0]["steps"]["rewards"] == pytest.approx(rewards)
    assert answer["data"][0]["sequence"]["reward"] == pytest.approx(reward)


async def test_a_bad_input_fails_alone(tmp_path: Path) -> None:
    not_an_answer = {"messages": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]}
    async with world(tmp_path) as w:
        answer = await w.rewards(
            not_an_answer, TEXT, {"prompt": "p", "response": FORBIDDEN}, {"id": "last", "prompt": "p", "response": "a"}
        )
    data = answer["data"]
    assert "the last message has the role 'user'" in data[0]["error"]["detail"]
    assert data[1]["sequence"]["reward"] == 10.5
    assert data[2]["error"] == {"detail": "9 tokens exceed the model's 8: shorten the text"}
    assert (data[3]["index"], data[3]["id"], data[3]["sequence"]["reward"]) == (3, "last", 0.5)
    assert answer["usage"] == {"prompt_tokens": 6, "response_tokens": 9, "failed_inputs": 2}


async def test_spans_that_leave_text_out_fail_alone(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        answer = await w.rewards(TEXT, TEXT, steps={"mode": "char_spans", "spans": [[[0, 5]], [[0, 6]]]})
    assert "end at 5, the response has 6 code points" in answer["data"][0]["error"]["detail"]
    assert answer["data"][1]["steps"]["rewards"] == [10.5]


async def test_when_no_input_can_be_scored_each_still_says_why(tmp_path: Path) -> None:
    messages = [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]
    async with world(tmp_path) as w:
        answer = await w.rewards({"messages": messages}, {"prompt": "p", "response": FORBIDDEN})
    assert [item["error"]["detail"].split(" ")[0] for item in answer["data"]] == ["the", "9"]
    assert answer["usage"] == {"prompt_tokens": 0, "response_tokens": 0, "failed_inputs": 2}


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        ({}, "body.inputs: Field required"),
        ({"inputs": []}, "body.inputs"),
        ({"inputs": [{"prompt": "p"}]}, "given: ['prompt']"),
        ({"inputs": [{**TEXT, "messages": [{"role": "user", "content": "a"}] * 2}]}, "an input has prompt and response, or messages"),
        (
            {"inputs": [{"prompt_token_ids": [-1], "response_token_ids": [1]}]},
            "prompt_token_ids.0: Input should be greater than or equal to 0",
        ),
        (
            {"inputs": [{"prompt_token_ids": [1], "response_token_ids": [2**31]}]},
            "response_token_ids.0: Input should be less than or equal to 2147483647",
        ),
        ({"inputs": [TEXT], "granularity": ["word"]}, "body.granularity.0"),
        ({"inputs": [TEXT], "truncate": "left"}, "body.truncate: Extra inputs are not permitted"),
        ({"inputs": [{"prompt_token_ids": [True], "response_token_ids": [1]}]}, "should be a valid integer"),
        ({"inputs": [{"prompt_token_ids": ["1"], "response_token_ids": [1]}]}, "should be a valid integer"),
        ({"inputs": [{"messages": [{"role": "user", "content": [{"type": "image", "text": "x"}]}] * 2}]}, "should be 'text'"),
        ({"inputs": [TEXT], "sequence_reduction": "discounted_sum"}, "discount is missing"),
        ({"inputs": [TEXT], "discount": 0.9}, "discount is given"),
        ({"inputs": [TEXT], "step_reduction": "softmax"}, "body.step_reduction"),
        ({"inputs": [TEXT], "steps": {"mode": "char_spans"}}, "steps.spans is missing"),
        ({"inputs": [TEXT], "steps": {"spans": [[[0, 6]]]}}, "steps.spans is given"),
        ({"inputs": [TEXT, TEXT], "steps": {"mode": "char_spans", "spans": [[[0, 6]]]}}, "steps.spans has 1 entries for 2 inputs"),
        ({"inputs": [TEXT], "steps": {"delimiter": ""}}, "body.steps.delimiter"),
    ],
)
async def test_a_request_that_breaks_a_rule_is_refused_with_the_rule(tmp_path: Path, body: dict[str, Any], rule: str) -> None:
    async with world(tmp_path) as w:
        answer = await w.client.post("/v1/rewards", json=body)
    is_problem(answer, 422, rule)
    assert answer.json()["errors"]


async def test_a_pinned_version_is_kept_or_refused_before_anything_is_scored(tmp_path: Path) -> None:
    prm = CharacterPrm()
    async with world(tmp_path, prm=prm) as w:

        async def status(model: str, tag: str | None) -> httpx.Response:
            return await w.client.post(
                "/v1/rewards", json={"inputs": [TEXT], "model": model}, headers={"If-Match": tag} if tag is not None else {}
            )

        fresh = await status("prm@7", '"prm@6", "prm@7"')
        assert (fresh.status_code, fresh.headers["etag"]) == (200, '"prm@7"')
        assert (await status("prm", "*")).status_code == 200
        is_problem(await status("prm", '"prm@6"'), 412, "the PRM is prm@7", '"prm@6"')
        is_problem(await status("prm", 'W/"prm@7"'), 412)
        is_problem(await status("prm", "prm@7"), 412, 'write an entity tag in double quotes: `If-Match: "prm@7"`')
        assert "quotes" not in (await status("prm", 'W/"prm@7", "prm@6"')).json()["detail"]
        is_problem(await status("prm@6", None), 404, "prm@6 is not served any more: the revision now is prm@7")
        is_problem(await status("prm@8", None), 404, "prm@8 does not exist: the revision now is prm@7")
        is_problem(await status("gpt", None), 404, "unknown model 'gpt'")
        assert prm.requests == [1, 1]


async def test_limits_are_named_when_they_are_exceeded(tmp_path: Path) -> None:
    async with world(tmp_path, max_request_items=2, max_request_bytes=2000) as w:
        is_problem(await w.client.post("/v1/rewards", json={"inputs": [TEXT] * 3}), 413, "3 inputs exceed 2 (gateway.max_request_items)")
        long = {"inputs": [{"prompt": "p", "response": "a" * 3000}]}
        is_problem(await w.client.post("/v1/rewards", json=long), 413, "exceeds 2000 bytes (gateway.max_request_bytes)")

        async def unannounced() -> AsyncIterator[bytes]:
            for _ in range(30):
                yield b" " * 100

        answer = await w.client.post("/v1/rewards", content=unannounced(), headers={"Content-Type": "application/json"})
        is_problem(answer, 413, "exceeds 2000 bytes")
        is_problem(await w.client.post("/v1/verify", json={"inputs": [{"kind": "equal", "response": "", "golds": [""]}] * 3}), 413)


async def test_a_prm_that_is_away_means_try_again(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await w.servers["prm"].stop(0)
        answer = await w.client.post("/v1/rewards", json={"inputs": [TEXT]})
        # The first may only have noticed that its connection ended.
        later = await w.client.post("/v1/rewards", json={"inputs": [TEXT]})
    is_problem(answer, 503, "prm: ")
    assert int(answer.headers["retry-after"]) > 0
    is_problem(later, 503, "prm: nobody answers at its address (section [endpoints]): start the service, or wait until it is up again")


async def test_a_prm_that_takes_too_long_means_504(tmp_path: Path) -> None:
    async with world(tmp_path, prm=SilentPrm(), timeout_s=0.2) as w:
        is_problem(await w.client.post("/v1/rewards", json={"inputs": [TEXT]}), 504, "prm: ")


async def test_rewards_that_do_not_fit_the_tokens_are_never_passed_on(tmp_path: Path) -> None:
    async with world(tmp_path, prm=ShortPrm()) as w:
        answer = await w.rewards({"prompt": "p", "response": "a"})
    assert "does not fit the response" in answer["data"][0]["error"]["detail"]


async def test_verify_tells_a_wrong_answer_from_a_failed_verifier(tmp_path: Path) -> None:
    inputs = [{"request_id": str(i), "kind": "equal", "response": text, "golds": ["4"]} for i, text in enumerate(["4", "5", "", "crash"])]
    async with world(tmp_path) as w:
        answer = await w.client.post("/v1/verify", json={"inputs": inputs})
    found = [(item["request_id"], item["verdict"], item["status"], item["score"], item["explanation"]) for item in answer.json()["data"]]
    assert found == [
        ("0", "CORRECT", "scored", 1.0, ""),
        ("1", "INCORRECT", "scored", 0.0, ""),
        ("2", "NO_ANSWER", "invalid", 0.0, "no answer"),
        ("3", "INFRA_ERROR", "error", None, "worker ended"),
    ]
    assert answer.json()["data"][0]["tests"][0]["verdict"] == "CORRECT"


async def test_options_that_do_not_exist_are_refused_by_name(tmp_path: Path) -> None:
    body = {"inputs": [{"kind": "math", "response": "4", "golds": ["4"], "options": {"bear": True}}]}
    async with world(tmp_path) as w:
        is_problem(await w.client.post("/v1/verify", json=body), 422, "bear")
        deep: Any = {}
        for _ in range(50):
            deep = {"a": deep}
        body = {"inputs": [{"kind": "equal", "response": "4", "golds": ["4"], "options": deep}]}
        is_problem(await w.client.post("/v1/verify", json=body), 422, "nested too deeply: at most 30")


async def test_the_verifiers_say_what_they_judge_and_what_holds_model_code_back(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        answer = (await w.client.get("/v1/verifiers")).json()
    assert [card["name"] for card in answer["data"]] == ["equal"]
    assert (answer["serving"], answer["sandbox_profile"]) == (True, "native")
    assert answer["sandbox_layers"] == [{"name": "seccomp", "works": True, "detail": "allow list"}]


async def test_an_unknown_verifier_is_the_caller_s_fault(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        answer = await w.client.post("/v1/verify", json={"inputs": [{"kind": "magic", "response": "a", "golds": ["b"]}]})
    is_problem(answer, 400, "verifier: unknown verifier 'magic': this service offers equal")


async def test_the_model_names_its_revision(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        answer = (await w.client.get("/v1/models")).json()
    card = {
        "id": "prm",
        "object": "model",
        "revision": "prm@7",
        "prm_version": 7,
        "base_model": "tiny",
        "reference_model": REFERENCE,
        "scored_tokens": 12,
    }
    assert answer == {"object": "list", "data": [card]}


async def test_a_run_shows_its_status_and_rows(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        w.folder.mkdir()
        metrics = w.folder / "metrics.jsonl"
        metrics.write_text('{"kind": "step", "step": 1, "prm_loss": NaN}\n', encoding="utf-8")
        (tmp_path / "older").mkdir()
        (tmp_path / "older" / "config.toml").touch()
        (tmp_path / "chain-sft").mkdir()
        runs = (await w.client.get("/v1/runs")).json()["data"]
        assert [(card["name"], card["active"]) for card in runs] == [("demo", True), ("older", False)]
        answer = (await w.client.get("/v1/runs/demo")).json()
        assert answer["rows"] == [{"kind": "step", "step": 1, "prm_loss": None}]
        assert answer["status"] == {
            "state": "training",
            "step": 3,
            "total_steps": 10,
            "cut_batches": 0,
            "live_groups": 5,
            "ready_groups": 0,
            "acceptance_rate": 0.5,
            "bottleneck": "generator",
            "stalled": "nothing has moved for 62 s",
            "ledger": {"issued": 8, "trained": 6, "live": 2},
            "queues": [{"stream": "tickets", "waiting": 4, "pending": 1, "oldest_seconds": 1.5}],
            "metrics": {"prm_loss": None, "staleness_max": 1.0},
        }
        with metrics.open("a", encoding="utf-8") as file:
            file.write('{"kind": "step", "step": 2}\n')
        later = (await w.client.get("/v1/runs/demo", params={"cursor": answer["cursor"]})).json()
        assert (later["rows"], later["reset"]) == ([{"kind": "step", "step": 2}], False)
        older = (await w.client.get("/v1/runs/older")).json()
        assert (older["active"], older["status"], older["rows"]) == (False, None, [])


async def test_a_run_without_its_coordinator_still_shows_its_rows(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await w.servers["coordinator"].stop(0)
        answer = (await w.client.get("/v1/runs/demo")).json()
    assert answer["status"] is None
    assert answer["status_error"].startswith("coordinator: ")


@pytest.mark.parametrize("name", ["absent", "..", "%2e%2e", "..%2fdemo", "a%00b", "x" * 256, "chain-sft"])
async def test_no_other_path_is_read(tmp_path: Path, name: str) -> None:
    async with world(tmp_path) as w:
        answer = await w.client.get(f"/v1/runs/{name}")
    assert answer.status_code in (404, 307)
    assert "rows" not in answer.text


async def test_keys_guard_every_route_but_probes_and_the_empty_page(tmp_path: Path) -> None:
    async with world(tmp_path, keys=("another-key-of-a-caller", KEY), host="gateway.example.org") as w:
        for path in ("/v1/models", "/v1/runs", "/v1/runs/demo", "/metrics", "/openapi.json", "/nowhere"):
            refused = await w.client.get(path)
            is_problem(refused, 401, "Authorization: Bearer KEY")
            assert refused.headers["www-authenticate"] == "Bearer"
        for path in ("/v1/rewards", "/v1/verify"):
            is_problem(await w.client.post(path, json={}), 401)
        for value in (f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", "Bearer ", f"Basic {KEY}", KEY):
            is_problem(await w.client.get("/v1/models", headers={"Authorization": value}), 401)
        assert (await w.client.get("/v1/models", headers={"Authorization": f"Bearer {KEY}"})).status_code == 200
        assert [(await w.client.get(path)).status_code for path in ("/", "/healthz", "/readyz")] == [200, 200, 200]
        assert "demo" not in (await w.client.get("/")).text


@pytest.mark.parametrize(("host", "status"), [("127.0.0.1:8080", 200), ("localhost", 200), ("[::1]:80", 200), ("evil.example.org", 403)])
async def test_without_keys_only_this_machine_s_names_are_answered(tmp_path: Path, host: str, status: int) -> None:
    async with world(tmp_path) as w:
        assert (await w.client.get("/v1/models", headers={"Host": host})).status_code == status


async def test_ready_means_that_every_service_says_so(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        ready = await w.client.get("/readyz")
        assert (ready.status_code, ready.json()["ready"]) == (200, True)
        await w.servers["verifier"].set_serving(False)
        await w.servers["prm"].stop(0)
        away = await w.client.get("/readyz")
        assert away.status_code == 503
        assert away.json() == {"ready": False, "services": {"prm": False, "verifier": False, "coordinator": True}}
        assert (await w.client.get("/healthz")).status_code == 200


async def test_metrics_count_requests_and_show_the_run(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await w.rewards(TEXT)
        await w.client.get("/nowhere")
        page = (await w.client.get("/metrics")).text
    lines = page.splitlines()
    assert 'oprime_http_requests_total{route="/v1/rewards",status="200"} 1.0' in lines
    assert 'oprime_http_requests_total{route="unmatched",status="404"} 1.0' in lines
    assert 'oprime_queue_lag_entries{stream="tickets"} 4.0' in lines
    assert "oprime_staleness_versions 1.0" in lines
    # What the coordinator did not say is not known, not 0.
    for unknown in ("oprime_prm_loss", "oprime_train_steps", "oprime_busy_seconds", "oprime_verifications"):
        assert unknown not in page


async def test_what_was_known_is_not_shown_once_the_coordinator_is_away(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        assert "oprime_tickets_live" in (await w.client.get("/metrics")).text
        await w.servers["coordinator"].stop(0)
        page = (await w.client.get("/metrics")).text
    assert "oprime_http_requests_total" in page
    assert "oprime_tickets_live" not in page


async def test_unknown_routes_and_methods_are_problems_too(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        is_problem(await w.client.get("/v2"), 404)
        is_problem(await w.client.get("/v1/rewards"), 405)
        is_problem(await w.client.post("/v1/rewards", content=b"{", headers={"Content-Type": "application/json"}), 422)


async def test_the_api_describes_itself(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        document = (await w.client.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    assert set(document["paths"]) == {
        "/get_reward", "/pooling", "/score", "/v1/score", "/classify", "/v1/classify", "/v1/embeddings", "/slime", "/v1/best-of-n",
        "/v1/rewards", "/v1/verify", "/v1/verifiers", "/v1/models", "/v1/runs", "/v1/runs/{name}", "/v1/runs/{name}/curves",
        "/v1/runs/{name}/settings", "/v1/runs/{name}/report", "/v1/runs/{name}/rollouts", "/v1/runs/{name}/rollouts/{step}/{group_id}",
        "/v1/evaluations", "/v1/evaluations/compare", "/healthz", "/readyz", "/metrics",
    }  # fmt: skip
    fields = document["components"]["schemas"]["RewardsRequest"]["properties"]
    assert all(name in {"steps"} or "description" in field for name, field in fields.items())


def test_every_service_with_an_endpoint_is_asked_for_its_health(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, {})
    assert set(addresses(settings)) == set(SERVICES) - {"gateway"}


async def test_a_run_without_a_prm_has_no_rewards_to_ask_for(tmp_path: Path) -> None:
    async with world(tmp_path, process_weight=0.0) as w:
        refused = await w.client.post("/v1/rewards", json={"inputs": [TEXT]})
        models = await w.client.get("/v1/models")
    is_problem(refused, 404, "this run has no PRM: algorithm.process_weight = 0")
    assert (models.status_code, models.json()["data"]) == (200, [])
    assert set(addresses(settings_of(tmp_path, {}, process_weight=0.0))) == {"coordinator", "generator", "verifier", "learner"}


def test_the_fake_prm_obeys_the_contract() -> None:
    answer = CharacterPrm()._scored(prm_pb2.ScoreItem(chat=prm_pb2.ChatScoreInput(messages=[common_pb2.ChatMessage()], response="ab")))
    assert list(zip(answer.char_starts, answer.char_ends, strict=True)) == [(0, 1), (1, 2), (2, 2)]
    assert json.dumps(list(answer.token_texts)) == '["a", "b", "<eos>"]'
