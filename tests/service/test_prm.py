"""Token rewards over gRPC, from the copy of the PRM that training does not touch."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch

from oprime.adapters.system_clock import SystemClock
from oprime.lm.frozen import FrozenModel
from oprime.lm.models import load_causal_lm
from oprime.lm.tokenizers import end_token_ids, load_tokenizer
from oprime.runtime.grpc_client import connect
from oprime.runtime.grpc_server import GrpcServer
from oprime.runtime.heartbeat import BusyMeter
from oprime.wire.codec import floats_from_bytes, ids_from_bytes, ids_to_bytes
from oprime_prm.prm_copy import PrmCopy
from oprime_prm.scoring.inputs import InputReader
from oprime_prm.scoring.queue import ScoreQueue
from oprime_prm.scoring.scorer import Scorer
from oprime_prm.scoring.share import TimeShare
from oprime_prm.servicer import PrmServicer
from oprime_prm.serving import ServingPrm
from oprime_proto.v1 import prm_pb2 as pb
from oprime_proto.v1 import prm_pb2_grpc
from tiny_policies import full_logprobs, write_policy

BETA = 0.5
LONGEST = 32
PROMPT, RESPONSE = (3, 4, 5), (6, 7, 8, 9)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_policy(tmp_path / "model", seed=0)
    return tmp_path / "model"


@pytest.fixture
def serving(directory: Path) -> ServingPrm:
    made = new_serving(directory)
    made.note(0)
    return made


def new_serving(directory: Path) -> ServingPrm:
    copy, reference = (FrozenModel(load_causal_lm(directory), chunk_tokens=8) for _ in range(2))
    return ServingPrm(PrmCopy(copy), reference, beta=BETA, pad_id=0)


@pytest.fixture
async def stub(directory: Path, serving: ServingPrm) -> AsyncIterator[prm_pb2_grpc.PrmServiceStub]:
    tokenizer = load_tokenizer(directory)
    queue = ScoreQueue(micro_batch_tokens=16, waiting_tokens=64, share=TimeShare(1.0, SystemClock()), meter=BusyMeter())
    reader = InputReader(tokenizer, end_id=end_token_ids(tokenizer, directory)[0], longest=LONGEST)
    server = GrpcServer("127.0.0.1:0")
    scorer = Scorer(reader, queue, serving, max_items=4)
    servicer = PrmServicer(scorer, BusyMeter(), model="tiny", reference_model="tiny-sft", beta=BETA)
    server.add(prm_pb2_grpc.add_PrmServiceServicer_to_server, servicer, "oprime_proto.v1.PrmService")
    port = await server.start()
    working = asyncio.create_task(queue.run())
    async with connect(f"127.0.0.1:{port}") as channel:
        await channel.channel_ready()
        yield prm_pb2_grpc.PrmServiceStub(channel)
    await server.stop(0)
    working.cancel()


def item(prompt: tuple[int, ...] = PROMPT, response: tuple[int, ...] = RESPONSE) -> pb.ScoreItem:
    return pb.ScoreItem(tokens=pb.TokenScoreInput(prompt_ids=ids_to_bytes(prompt), response_ids=ids_to_bytes(response)))


def chat(response: str, prompt: str = "w3") -> pb.ScoreItem:
    return pb.ScoreItem(chat=pb.ChatScoreInput(messages=[{"role": "user", "content": prompt}], response=response))


def shifted(directory: Path, amount: float) -> Iterator[tuple[str, torch.Tensor]]:
    """Weights of another version: the head's first row moved."""
    weights = dict(load_causal_lm(directory).named_parameters())
    with torch.no_grad():
        weights["lm_head.weight"][6] += amount
    return iter(weights.items())


def move_to(serving: ServingPrm, directory: Path, amount: float, version: int) -> None:
    serving.refresh(shifted(directory, amount), version)
    serving.note(version)


async def test_every_response_token_has_a_reward_and_its_log_probs(stub: prm_pb2_grpc.PrmServiceStub, directory: Path) -> None:
    answer = await stub.Score(pb.ScoreRequest(items=[item()]))
    scored = answer.responses[0]
    expected = full_logprobs(directory, PROMPT, RESPONSE, 1.0)
    np.testing.assert_allclose(floats_from_bytes(scored.reference_logprobs), expected, atol=1e-5)
    np.testing.assert_allclose(floats_from_bytes(scored.process_rewards), np.zeros(len(RESPONSE)), atol=1e-6)
    assert ids_from_bytes(scored.response_ids).tolist() == list(RESPONSE)
    assert len(scored.token_texts) == len(RESPONSE)
    assert (answer.beta, answer.reference_model) == (BETA, "tiny-sft")


async def test_rewards_are_beta_times_the_log_ratio_of_one_version(
    stub: prm_pb2_grpc.PrmServiceStub, serving: ServingPrm, directory: Path
) -> None:
    move_to(serving, directory, 0.5, 3)
    answer = await stub.Score(pb.ScoreRequest(items=[item(), item(response=(9, 6))]))
    assert answer.prm_version == 3
    for scored in answer.responses:
        ratio = floats_from_bytes(scored.prm_logprobs) - floats_from_bytes(scored.reference_logprobs)
        np.testing.assert_allclose(floats_from_bytes(scored.process_rewards), BETA * ratio, atol=1e-6)
        assert (floats_from_bytes(scored.process_rewards) * 2.0**30 % 1 == 0).all()
        assert np.abs(ratio).max() > 1e-3


async def test_scores_asked_for_during_refreshes_belong_to_the_version_they_name(
    stub: prm_pb2_grpc.PrmServiceStub, serving: ServingPrm, directory: Path
) -> None:
    def refresh_often() -> None:
        for version in range(1, 20):
            move_to(serving, directory, 0.1 * version, version)

    refreshing = asyncio.create_task(asyncio.to_thread(refresh_often))
    answers = [await stub.Score(pb.ScoreRequest(items=[item()])) for _ in range(20)]
    await refreshing
    by_version: dict[int, set[bytes]] = {}
    for answer in answers:
        by_version.setdefault(answer.prm_version, set()).add(answer.responses[0].process_rewards)
    assert all(len(rewards) == 1 for rewards in by_version.values())
    assert len({rewards for each in by_version.values() for rewards in each}) == len(by_version)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (item(response=()), "at least one token"),
        (item(prompt=()), "at least one token"),
        (item(response=(9999,)), "9999"),
        (item(response=(6,) * LONGEST), str(LONGEST)),
        (item(response=(-1,)), "-1"),
        (chat("w3 " * 1000), "characters exceed what the model's 32 tokens can hold"),
        (chat("w3 " * 40), "1 prompt \\+ 41 response tokens exceed the model's 32"),
    ],
)
async def test_an_item_that_cannot_be_scored_fails_alone(stub: prm_pb2_grpc.PrmServiceStub, bad: pb.ScoreItem, says: str) -> None:
    answer = await stub.Score(pb.ScoreRequest(items=[bad, item()]))
    assert re.search(says, answer.responses[0].error)
    assert not answer.responses[0].process_rewards
    assert len(floats_from_bytes(answer.responses[1].process_rewards)) == len(RESPONSE)


async def test_too_many_items_are_refused_with_the_limit(stub: prm_pb2_grpc.PrmServiceStub) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match=r"5 items exceed 4 \(prm.max_score_items\)") as refused:
        await stub.Score(pb.ScoreRequest(items=[item()] * 5))
    assert refused.value.code() is grpc.StatusCode.OUT_OF_RANGE


async def test_a_chat_is_scored_on_its_response_and_end_token_with_the_place_of_each_token(
    stub: prm_pb2_grpc.PrmServiceStub, directory: Path
) -> None:
    tokenizer = load_tokenizer(directory)
    words = [str(tokenizer.decode([token])).strip() for token in RESPONSE]
    text = " ".join(words)
    chat = pb.ChatScoreInput(messages=[{"role": "user", "content": words[0]}], response=text)
    scored = (await stub.Score(pb.ScoreRequest(items=[pb.ScoreItem(chat=chat)]))).responses[0]
    assert scored.error == ""
    assert ids_from_bytes(scored.response_ids).tolist() == [*RESPONSE, *end_token_ids(tokenizer, directory)[:1]]
    places = list(zip(scored.char_starts, scored.char_ends, strict=True))
    assert [text[start:end] for start, end in places] == [*words, ""]


async def test_a_version_that_is_not_served_is_named_with_the_one_that_is(stub: prm_pb2_grpc.PrmServiceStub, serving: ServingPrm) -> None:
    assert (await stub.Score(pb.ScoreRequest(items=[item()], prm_version=0))).prm_version == 0
    with pytest.raises(grpc.aio.AioRpcError, match=r"prm@7 is not served.*prm@0") as refused:
        await stub.Score(pb.ScoreRequest(items=[item()], prm_version=7))
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND
    status = await stub.Status(pb.PrmServiceStatusRequest())
    assert (status.prm_version, list(status.versions), status.reference_model, status.scored_tokens) == (0, [0], "tiny-sft", len(RESPONSE))


async def test_a_request_waits_for_the_weights_of_the_newest_version_where_the_copy_has_older_ones(
    stub: prm_pb2_grpc.PrmServiceStub, serving: ServingPrm, directory: Path
) -> None:
    fetched: list[int] = []

    async def fetch() -> None:
        fetched.append(serving.newest)
        await asyncio.to_thread(serving.refresh, shifted(directory, 0.5), serving.newest)

    serving.fetch = fetch
    assert not serving.was_asked()
    serving.note(4)
    answers = [await stub.Score(pb.ScoreRequest(items=[item()], prm_version=version)) for version in (None, 4)]
    assert [answer.prm_version for answer in answers] == [4, 4]
    assert fetched == [4], "the second request found them there"
    assert np.abs(floats_from_bytes(answers[0].responses[0].process_rewards)).max() > 1e-3
    assert serving.was_asked()
    assert not serving.was_asked()


async def test_a_request_of_bad_inputs_alone_is_answered_with_their_reasons(stub: prm_pb2_grpc.PrmServiceStub) -> None:
    answer = await stub.Score(pb.ScoreRequest(items=[item(response=())]))
    assert "at least one token" in answer.responses[0].error


async def test_inputs_of_one_prompt_have_the_scores_that_each_has_alone(stub: prm_pb2_grpc.PrmServiceStub, directory: Path) -> None:
    responses = [(6, 7, 8), (9,), (6, 7)]
    answer = await stub.Score(pb.ScoreRequest(items=[item(response=response) for response in responses]))
    for response, scored in zip(responses, answer.responses, strict=True):
        np.testing.assert_allclose(floats_from_bytes(scored.prm_logprobs), full_logprobs(directory, PROMPT, response, 1.0), atol=1e-5)


async def test_what_cannot_be_tokenised_fails_alone(stub: prm_pb2_grpc.PrmServiceStub) -> None:
    chat = pb.ChatScoreInput(messages=[{"role": "user", "content": "no word of this vocabulary"}], response="nor this")
    answer = await stub.Score(pb.ScoreRequest(items=[pb.ScoreItem(chat=chat), item()]))
    assert answer.responses[0].error
    assert len(floats_from_bytes(answer.responses[1].process_rewards)) == len(RESPONSE)


async def test_the_answer_says_what_was_left_out_and_against_what_it_was_scored(stub: prm_pb2_grpc.PrmServiceStub) -> None:
    long = item(response=(6,) * LONGEST)
    long.truncation = pb.TRUNCATION_RIGHT
    short = item()
    short.truncation, short.max_tokens = pb.TRUNCATION_LEFT, len(RESPONSE) + 1
    answer = await stub.Score(pb.ScoreRequest(items=[long, short]))
    kept = [(one.prompt_tokens, one.dropped_prompt_tokens, one.dropped_response_tokens) for one in answer.responses]
    assert kept == [(len(PROMPT), 0, len(PROMPT)), (1, len(PROMPT) - 1, 0)]
    assert (answer.reference_model, (await stub.Status(pb.PrmServiceStatusRequest())).reference_model) == ("tiny-sft", "tiny-sft")


async def test_text_that_a_template_has_written_is_scored_as_its_tokens(stub: prm_pb2_grpc.PrmServiceStub, directory: Path) -> None:
    tokenizer = load_tokenizer(directory)
    prompt, response = (" ".join(str(tokenizer.decode([token])).strip() for token in ids) for ids in (PROMPT, RESPONSE))
    apart = pb.ScoreItem(text=pb.TextScoreInput(prompt=prompt, response=f" {response} {tokenizer.eos_token} \n"))
    whole = pb.ScoreItem(text=pb.TextScoreInput(response=f"{prompt} {response}"))
    ended = item(response=(*RESPONSE, *end_token_ids(tokenizer, directory)[:1]))
    first, second, tokens, rest = (
        await stub.Score(pb.ScoreRequest(items=[apart, whole, ended, item(PROMPT[:1], PROMPT[1:] + RESPONSE)]))
    ).responses
    assert (first.response_ids, first.prompt_tokens, first.has_end_token) == (tokens.response_ids, len(PROMPT), True)
    np.testing.assert_allclose(floats_from_bytes(first.prm_logprobs), floats_from_bytes(tokens.prm_logprobs), atol=1e-5)
    # Nothing in this template says where an answer begins: all but the first token are scored.
    assert (second.response_ids, second.prompt_tokens, second.has_end_token) == (rest.response_ids, 1, False)
    np.testing.assert_allclose(floats_from_bytes(second.prm_logprobs), floats_from_bytes(rest.prm_logprobs), atol=1e-5)
