"""POST /v1/best-of-n. The reward of a response of n characters is n (n + 1) / 4, so that the longest one has the highest."""

import math
from pathlib import Path
from typing import Any

import pytest

from gateway_world import FORBIDDEN, CharacterPrm, EqualityVerifier, World, is_problem, world
from oprime.core.verification import no_answer, scored
from oprime.wire.verification import outcome_to_proto
from oprime_proto.v1 import verification_pb2


class LastWordVerifier(EqualityVerifier):
    """The answer is the last word, if there is a second; case does not matter."""

    asked = 0

    def _judged(self, item: verification_pb2.VerifyRequest) -> verification_pb2.VerifyResponse:
        self.asked += 1
        if item.kind == "equal":
            return super()._judged(item)
        *before, answer = item.response.split(" ")
        if not before:
            return outcome_to_proto(no_answer("one word"), item.request_id)
        return outcome_to_proto(scored(float(answer.lower() == item.golds[0].lower()), answer=answer), item.request_id)


async def best_of(w: World, *responses: str, **fields: Any) -> dict[str, Any]:
    answer = await w.client.post("/v1/best-of-n", json={"prompt": "p", "responses": responses, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_responses_are_ranked_by_their_reward(tmp_path: Path) -> None:
    prm = CharacterPrm()
    async with world(tmp_path, prm=prm) as w:
        answer = await best_of(w, "ab", FORBIDDEN, "abcd", "abc")
    assert (answer["best"], [one["index"] for one in answer["ranking"]]) == (2, [2, 3, 0, 1])
    assert [one.get("reward") for one in answer["ranking"]] == [5.0, 3.0, 1.5, None]
    assert answer["ranking"][3]["error"]["detail"].startswith("9 tokens exceed")
    assert (answer["object"], answer["model_revision"], answer["usage"]["failed_inputs"]) == ("best_of_n", "prm@7", 1)
    assert ("votes" in answer, "answer" in answer) == (False, False)
    assert prm.items[0].chat.messages[0].content == "p"


async def test_the_reductions_of_rewards_choose_too(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        answer = await best_of(w, "a\n\nbcd", "abcde", sequence_reduction="min")
        spans = await best_of(w, "ab", "abc", steps={"mode": "char_spans", "spans": [[[0, 1], [1, 2]], [[0, 3]]]}, sequence_reduction="min")
    # Steps a\n\n and bcd with its end: 0.5+1 = 1.5 against all of 7.5.
    assert [(one["index"], one["reward"]) for one in answer["ranking"]] == [(1, 7.5), (0, 1.5)]
    assert [one["reward"] for one in spans["ranking"]] == [3.0, 0.0]


async def test_equal_answers_vote_together(tmp_path: Path) -> None:
    verifier = LastWordVerifier()
    responses = ("it is x", "so Y", "is y", "silent", "o y", FORBIDDEN)
    async with world(tmp_path, verifier=verifier) as w:
        answer = await best_of(w, *responses, method="vote", verifier={"kind": "last"}, weight="none")
        weighted = await best_of(w, *responses, method="vote", verifier={"kind": "last"})
    assert (answer["best"], answer["answer"]) == (1, "Y")
    assert answer["votes"] == [{"answer": "Y", "weight": 3.0, "responses": [1, 2, 4]}, {"answer": "x", "weight": 1.0, "responses": [0]}]
    by_place = {one["index"]: one.get("answer") for one in answer["ranking"]}
    assert by_place == {0: "x", 1: "Y", 2: "y", 3: None, 4: "y", 5: None}
    # Rewards 5, 5, 3 of "so Y" (4 characters), "is y" and "o y".
    assert weighted["votes"][0]["weight"] == pytest.approx(2 / (1 + math.exp(-5)) + 1 / (1 + math.exp(-3)), rel=1e-6)


async def test_a_vote_without_any_answer_has_no_best(tmp_path: Path) -> None:
    async with world(tmp_path, verifier=LastWordVerifier()) as w:
        answer = await best_of(w, "a", "b", method="vote", verifier={"kind": "last"})
    assert ("best" in answer, answer["votes"], len(answer["ranking"])) == (False, [], 2)


async def test_where_the_verifier_fails_there_is_no_vote(tmp_path: Path) -> None:
    async with world(tmp_path, verifier=LastWordVerifier()) as w:
        body = {"prompt": "p", "responses": ["crash"], "method": "vote", "verifier": {"kind": "equal"}}
        is_problem(await w.client.post("/v1/best-of-n", json=body), 502, "worker ended")
        options = {"kind": "math", "options": {"bear": True}}
        is_problem(await w.client.post("/v1/best-of-n", json={**body, "responses": ["a"], "verifier": options}), 422, "bear")
        await w.servers["verifier"].stop(0)
        is_problem(await w.client.post("/v1/best-of-n", json=body), 503, "verifier: ")


async def test_a_gateway_without_a_verifier_ranks_and_says_why_it_cannot_vote(tmp_path: Path) -> None:
    prm, body = CharacterPrm(), {"prompt": "p", "responses": ["a", "ab"]}
    async with world(tmp_path, prm=prm, rewards_only=True) as w:
        refused = await w.client.post("/v1/best-of-n", json={**body, "method": "vote"})
        assert prm.requests == []
        assert (await best_of(w, "a", "ab"))["best"] == 1
        judged = await w.client.post("/v1/verify", json={"inputs": [{"kind": "math", "response": "1", "golds": ["1"]}]})
    remedy = "ask the gateway of a run"
    is_problem(
        refused, 404, "method vote needs a verifier, and this gateway answers with process rewards alone", f"use method rank, or {remedy}"
    )
    is_problem(judged, 404, "process rewards alone", remedy)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"prompt": None}, "give the prompt, or the messages"),
        ({"messages": [{"role": "user", "content": "q"}]}, "give the prompt, or the messages"),
        ({"weight": "none"}, "weight given with method rank"),
        ({"responses": []}, "body.responses"),
        ({"method": "vote", "weight": "heavy"}, "body.weight"),
        ({"steps": {"mode": "char_spans", "spans": [[], []]}}, "2 entries for 1 responses"),
    ],
)
async def test_a_question_that_breaks_a_rule_is_refused_with_it(tmp_path: Path, change: dict[str, Any], rule: str) -> None:
    async with world(tmp_path) as w:
        answer = await w.client.post("/v1/best-of-n", json={"prompt": "p", "responses": ["a"], **change})
    is_problem(answer, 422, rule)


async def test_pins_and_limits_hold_for_it_too(tmp_path: Path) -> None:
    body = {"messages": [{"role": "user", "content": "q"}], "responses": ["a", "b", "c"]}
    async with world(tmp_path, max_request_items=2) as w:
        is_problem(await w.client.post("/v1/best-of-n", json=body), 413, "3 inputs exceed 2")
    async with world(tmp_path) as w:
        assert (await w.client.post("/v1/best-of-n", json={**body, "model": "prm@7"})).headers["etag"] == '"prm@7"'
        is_problem(await w.client.post("/v1/best-of-n", json={**body, "model": "prm@6"}), 404)
        is_problem(await w.client.post("/v1/best-of-n", json=body, headers={"If-Match": '"prm@6"'}), 412)
    async with world(tmp_path, process_weight=0.0) as w:
        is_problem(await w.client.post("/v1/best-of-n", json=body), 404, "no PRM")
