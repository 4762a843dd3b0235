"""Other trainers' reward functions, on this verifier over HTTP, over gRPC and on local workers."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import torch
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from oprime.core.verification import Outcome, Verdict, VerificationRequest, correct, incorrect, unscored
from oprime.runtime.errors import SettingsError
from oprime.runtime.grpc_server import GrpcServer
from oprime_proto.v1.verifier_pb2_grpc import add_VerifierServiceServicer_to_server
from oprime_verifier.shims import client
from oprime_verifier.shims.client import UnscoredError, VerifierClient, kind_of, number_of, request_of
from oprime_verifier.shims.openrlhf import response_of, reward_func
from oprime_verifier.shims.trl import reward_funcs, verifier_reward
from oprime_verifier.shims.verl import compute_score, compute_score_batch
from service.verifier_external.conftest import Server
from service.verifier_external.test_grpc_verifier import Scripted

TESTS = '{"inputs": ["1\\n"], "outputs": ["2\\n"]}'


async def gateway(_request: Request, message: Any) -> Response:
    """Right when the gold is in the response; what has no gold cannot be judged."""
    data: list[dict[str, Any]] = []
    for item in message["inputs"]:
        outcome = {"request_id": item.get("request_id", ""), "extracted": item["kind"]}
        if not item.get("golds") and not item.get("tests"):
            data.append({**outcome, "verdict": "BAD_TASK", "score": None, "explanation": "no gold"})
        else:
            right = item.get("tests") or item["golds"][0] in item["response"]
            data.append({**outcome, "verdict": "CORRECT" if right else "INCORRECT", "score": float(bool(right))})
    return JSONResponse({"data": data})


@pytest.fixture(autouse=True)
def no_client_is_left() -> Iterator[None]:
    yield
    for key in list(client._clients):
        client._close(key)


@pytest.fixture
async def asked(server: Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    """A gateway that OPRIME_VERIFIER names."""
    server.answers = [gateway]
    monkeypatch.setenv("OPRIME_VERIFIER", server.url)
    yield server
    await asyncio.to_thread(lambda: [client._close(key) for key in list(client._clients)])


async def test_verl_gets_a_score(asked: Server) -> None:
    right = await asyncio.to_thread(compute_score, "numina_x", "it is 8", "8", {"index": 3})
    wrong = await asyncio.to_thread(compute_score, "numina_x", "it is 9", "8")
    assert (right["score"], right["acc"], right["pred"], right["verdict"]) == (1.0, 1.0, "math", "CORRECT")
    assert wrong["score"] == 0.0
    assert asked.seen[0].path == "/v1/verify"
    assert asked.seen[0].message["inputs"][0]["data_source"] == "numina_x"


async def test_verl_tells_tests_from_answers(asked: Server) -> None:
    assert (await asyncio.to_thread(compute_score, "taco", "code", TESTS))["pred"] == "code"
    assert (await asyncio.to_thread(compute_score, "mine", "it is 8", "8", {"kind": "exact"}))["pred"] == "exact"
    assert (await asyncio.to_thread(lambda: compute_score("mine", "it is 8", "8", kind="chain")))["pred"] == "chain"


async def test_verl_judges_a_batch_in_order(asked: Server) -> None:
    results = await asyncio.to_thread(compute_score_batch, ["a"] * 20, [f"it is {n}" for n in range(20)], ["7"] * 20)
    assert [index for index, result in enumerate(results) if result["score"]] == [7, 17]


async def test_what_cannot_be_judged_is_no_zero_for_verl(asked: Server) -> None:
    with pytest.raises(UnscoredError, match=r"BAD_TASK: no gold.*unscored=NUMBER"):
        await asyncio.to_thread(compute_score, "a", "it is 8", None)
    assert (await asyncio.to_thread(lambda: compute_score("a", "it is 8", None, unscored=-1.0)))["score"] == -1.0


async def test_trl_leaves_out_what_cannot_be_judged(asked: Server) -> None:
    reward = verifier_reward("math")
    chats = [[{"role": "assistant", "content": text}] for text in ("it is 8", "it is 9", "it is 8")]
    columns = {"completion_ids": [[1]] * 3, "solution": ["8", "8", None]}
    scores = await asyncio.to_thread(lambda: reward(prompts=["?"] * 3, completions=chats, **columns))
    assert scores == [1.0, 0.0, None]
    assert reward.__name__ == "oprime"
    texts = await asyncio.to_thread(lambda: reward(prompts=["?"], completions=["it is 8"], solution=["8"]))
    assert texts == [1.0]
    with pytest.raises(ValueError, match="'answer'"):
        verifier_reward(gold="answer")(prompts=["?"], completions=["8"], solution=["8"])


async def test_openrlhf_gets_tensors(asked: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    queries = ["<s>5+3? it is 8", "5+4? it is 8"]
    result = await asyncio.to_thread(reward_func, queries, ["5+3?", "5+4?"], ["8", "9"])
    assert torch.equal(result["rewards"], torch.tensor([1.0, 0.0]))
    assert [item["response"] for seen in asked.seen for item in seen.message["inputs"]] == [" it is 8", " it is 8"]
    with pytest.raises(UnscoredError):
        await asyncio.to_thread(reward_func, ["a8"], ["a"], [None])
    monkeypatch.setenv("OPRIME_UNSCORED", "0.0")
    result = await asyncio.to_thread(reward_func, ["a8"], ["a"], [None])
    assert (result["rewards"].item(), result["extra_logs"]["judged"].item()) == (0.0, 0.0)


async def test_many_threads_share_one_client(asked: Server) -> None:
    results: list[float] = []

    def ask(number: int) -> None:
        results.append(compute_score("a", f"it is {number}", "7")["score"])

    def ask_from_threads() -> None:
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    await asyncio.to_thread(ask_from_threads)
    assert sum(results) == 1.0
    assert len(client._clients) == 1


async def test_a_service_is_asked_over_grpc(monkeypatch: pytest.MonkeyPatch) -> None:
    async def judge(request: VerificationRequest) -> Outcome:
        return correct() if request.golds[0] in request.response else incorrect()

    server = GrpcServer("127.0.0.1:0")
    server.add(add_VerifierServiceServicer_to_server, Scripted(judge), "oprime_proto.v1.VerifierService")
    port = await server.start()
    monkeypatch.setenv("OPRIME_VERIFIER", f"127.0.0.1:{port}")
    try:
        assert (await asyncio.to_thread(compute_score, "a", "it is 8", "8"))["score"] == 1.0
    finally:
        await asyncio.to_thread(lambda: [client._close(key) for key in list(client._clients)])
        await server.stop(0)


def test_without_an_address_workers_of_this_machine_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPRIME_VERIFIER", raising=False)
    monkeypatch.setenv("OPRIME_VERIFIER_WORKERS", "1")
    scores = compute_score_batch(["a"] * 3, ["so \\boxed{\\frac{1}{2}}", "\\boxed{0.5}", "\\boxed{2}"], ["0.5"] * 3)
    assert [score["score"] for score in scores] == [1.0, 1.0, 0.0]
    with pytest.raises(UnscoredError):
        compute_score("a", "\\boxed{8}", "")


def test_a_client_that_cannot_be_opened_leaves_no_thread(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    before = set(threading.enumerate())
    with pytest.raises(SettingsError):
        VerifierClient("http://127.0.0.1:1", key_file=tmp_path / "none")
    assert not set(threading.enumerate()) - before, "a thread of an earlier test may end meanwhile; none may begin"
    monkeypatch.delenv("OPRIME_VERIFIER", raising=False)
    monkeypatch.setenv("OPRIME_VERIFIER_WORKERS", "many")
    with pytest.raises(SettingsError, match="'many'"):
        compute_score("a", "8", "8")


def test_kinds_are_read_from_the_ground_truth() -> None:
    assert [kind_of(truth) for truth in ("8", "{1, 2}", r"\{x\}", TESTS, {"inputs": []}, ["7", "8"])] == [
        *("math", "math", "math", "code", "code", "math")
    ]
    assert request_of("x", ["7", 8]).golds == ("7", "8")
    assert request_of("x", {"inputs": []}).tests == '{"inputs": []}'


def test_a_number_of_ones_own_is_opted_in(monkeypatch: pytest.MonkeyPatch) -> None:
    undecided = unscored(Verdict.UNDECIDED, "hard")
    assert number_of(undecided, 0.0) == 0.0
    monkeypatch.setenv("OPRIME_UNSCORED", "-0.5")
    assert number_of(undecided, None) == -0.5
    monkeypatch.setenv("OPRIME_UNSCORED", "none")
    with pytest.raises(SettingsError, match="'none'"):
        number_of(undecided, None)


def test_trl_gets_a_function_for_each_kind() -> None:
    assert [function.__name__ for function in reward_funcs("math", "code")] == ["oprime_math", "oprime_code"]
    assert [function.__name__ for function in reward_funcs()] == ["oprime"]


def test_a_query_must_hold_its_prompt() -> None:
    assert response_of("<s>ab", "a") == "b"
    assert response_of("ab", "") == "ab"
    with pytest.raises(ValueError, match="does not hold its prompt"):
        response_of("ab", "c")
