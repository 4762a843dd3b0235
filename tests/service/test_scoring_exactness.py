"""Served log-probs and rewards beside transformers in float64, for every kind of text and whatever else is scored beside it."""

import asyncio
import math
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import LlamaConfig, PreTrainedModel, PreTrainedTokenizerFast

from oprime.adapters.system_clock import SystemClock
from oprime.core.prompt_families import PromptFamily
from oprime.core.types import ChatMessage
from oprime.lm.frozen import FrozenModel
from oprime.lm.models import load_causal_lm, random_causal_lm
from oprime.lm.tokenizers import load_tokenizer
from oprime.runtime.heartbeat import BusyMeter
from oprime_prm.scoring.inputs import ChatInput, InputReader, Wanted
from oprime_prm.scoring.pair import Beside, ScoringPair, TokenScores
from oprime_prm.scoring.queue import ScoreQueue
from oprime_prm.scoring.scorer import ScoredItem, ScoredRequest, Scorer
from oprime_prm.scoring.share import TimeShare
from tiny_policies import with_other_head

BETA = 0.05
EXACT, BESIDE_OTHERS = 1e-4, 1e-5
CONTEXT = 512
PIECES = (
    "the sum of 3 and 4 is 7", "\n\n", "😀", "👩‍👩‍👧‍👦", "日本語の文", "数学", "é", "e\u0301", "a\u0300\u0323", "नमस्ते",
    "\u200d", "x^2 + y^2", "  ", "\t", "\U0001d518\U0001d52b", "🇩🇪", "مرحبا", "ß", "\U0001f600" * 3, "<eos>", "0.5", "'", '"',
    "\\", "\u00a0", "\ufb01", "1️⃣",
)  # fmt: skip


def texts() -> list[str]:
    """Two hundred responses: the odd ones first, the empty one and those of one token among them."""
    dice = random.Random(0)
    made = ["", "a", "😀", "e\u0301", "\U00010348", "\n", *PIECES]
    while len(made) < 200:
        made.append("".join(dice.choice(PIECES) + dice.choice(("", " ")) for _ in range(dice.randint(1, 12))))
    return made


def write_model(directory: Path) -> PreTrainedModel:
    """A Llama of two layers that reads any bytes."""
    inner = Tokenizer(BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    inner.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(texts(), BpeTrainer(vocab_size=400, special_tokens=["<eos>"], initial_alphabet=alphabet, show_progress=False))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>", pad_token="<eos>")
    tokenizer.chat_template = "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"
    tokenizer.save_pretrained(directory)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=CONTEXT,
        initializer_range=0.2,
        eos_token_id=0,
        bos_token_id=0,
    )
    model = random_causal_lm(config, 0)
    model.save_pretrained(directory)
    return model


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directories of a PRM and its reference."""
    place = tmp_path_factory.mktemp("exact")
    model = write_model(place / "reference")
    with_other_head(model, seed=1).save_pretrained(place / "prm")
    return place


def conversations() -> list[ChatInput]:
    """Some prompts have several responses."""
    prompts = ["1+1?", "😀 日本", "e\u0301\n\nx", ""]
    return [
        ChatInput(messages=(ChatMessage(role="user", content=prompts[number // 7 % len(prompts)] + str(number // 28)),), response=text)
        for number, text in enumerate(texts())
    ]


def plain(place: Path, conversation: ChatInput) -> tuple[list[float], list[float]]:
    """Log-probs under PRM and reference, the obvious way: transformers in float64, one row, all logits."""
    tokenizer = load_tokenizer(place / "reference")
    messages = [{"role": message.role, "content": message.content} for message in conversation.messages]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    # Names of special tokens are text.
    encoded: Any = tokenizer(conversation.response, add_special_tokens=False, split_special_tokens=True)
    response = [*encoded["input_ids"], 0]
    ids = torch.tensor([[*prompt, *response]])
    found: list[list[float]] = []
    for name in ("prm", "reference"):
        logits = _double(place / name)(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
        found.append(logits.log_softmax(-1).gather(-1, torch.tensor(response)[:, None])[:, 0].tolist())
    return found[0], found[1]


MODELS: dict[Path, PreTrainedModel] = {}


def _double(directory: Path) -> PreTrainedModel:
    if directory not in MODELS:
        MODELS[directory] = load_causal_lm(directory).double().requires_grad_(False)
    return MODELS[directory]


class OnePair:
    newest = 0

    def __init__(self, pair: ScoringPair) -> None:
        self._pair = pair

    def versions(self) -> list[int]:
        return [0]

    def using(self, version: int | None) -> "OnePair":
        return self

    async def __aenter__(self) -> ScoringPair:
        return self._pair

    async def __aexit__(self, *_: object) -> None:
        """Nothing to let go of."""


async def served(place: Path, requests: Sequence[Sequence[ChatInput]], *, micro_batch_tokens: int) -> list[ScoredRequest]:
    """What a service answers to requests that come at once."""
    prm, reference = (FrozenModel(load_causal_lm(place / name), chunk_tokens=64) for name in ("prm", "reference"))
    pair = ScoringPair(prm=prm, reference=reference, beta=BETA, pad_id=0, version=0)
    queue = ScoreQueue(micro_batch_tokens=micro_batch_tokens, waiting_tokens=10**9, share=TimeShare(1.0, SystemClock()), meter=BusyMeter())
    reader = InputReader(load_tokenizer(place / "reference"), end_id=0, longest=CONTEXT)
    scorer = Scorer(reader, queue, OnePair(pair), max_items=256)
    working = asyncio.create_task(queue.run())
    try:
        return list(await asyncio.gather(*(scorer.score([Wanted(form=one) for one in request], None) for request in requests)))
    finally:
        working.cancel()


def scores(answers: Sequence[ScoredRequest]) -> list[TokenScores]:
    items = [item for answer in answers for item in answer.items]
    assert all(isinstance(item, ScoredItem) for item in items), [item for item in items if isinstance(item, str)]
    return [item.scores for item in items if isinstance(item, ScoredItem)]


@pytest.fixture(scope="module")
def alone(place: Path) -> list[TokenScores]:
    """Every text scored with nothing beside it."""
    return scores(asyncio.run(served(place, [[one] for one in conversations()], micro_batch_tokens=1)))


def test_two_hundred_texts_have_the_log_probs_of_transformers_in_float64(place: Path, alone: list[TokenScores]) -> None:
    assert len(alone) == 200
    for conversation, found in zip(conversations(), alone, strict=True):
        prm, reference = plain(place, conversation)
        assert found.prm_logprobs.tolist() == pytest.approx(prm, abs=EXACT)
        assert found.reference_logprobs.tolist() == pytest.approx(reference, abs=EXACT)
        rewards = [BETA * (ours - theirs) for ours, theirs in zip(prm, reference, strict=True)]
        assert found.process_rewards.tolist() == pytest.approx(rewards, abs=EXACT)
    assert max(float(found.process_rewards.abs().max()) for found in alone) > 10 * EXACT


@pytest.mark.parametrize(("size", "micro_batch_tokens"), [(200, 4096), (50, 700), (3, 100_000)])
def test_what_is_scored_beside_a_text_changes_nothing(place: Path, alone: list[TokenScores], size: int, micro_batch_tokens: int) -> None:
    mixed = list(range(200))
    random.Random(size).shuffle(mixed)
    together = conversations()
    requests = [[together[index] for index in mixed[start : start + size]] for start in range(0, 200, size)]
    found = scores(asyncio.run(served(place, requests, micro_batch_tokens=micro_batch_tokens)))
    for index, values in zip(mixed, found, strict=True):
        torch.testing.assert_close(values.prm_logprobs, alone[index].prm_logprobs, rtol=0, atol=BESIDE_OTHERS)
        torch.testing.assert_close(values.process_rewards, alone[index].process_rewards, rtol=0, atol=BESIDE_OTHERS)


class Counted(ThreadPoolExecutor):
    """A thread that counts what it is given."""

    given = 0

    def submit(self, *arguments: Any, **options: Any) -> Any:
        self.given += 1
        return super().submit(*arguments, **options)


def test_a_thread_for_the_reference_changes_nothing(place: Path) -> None:
    prm, reference = (FrozenModel(load_causal_lm(place / name), chunk_tokens=64) for name in ("prm", "reference"))
    ids = np.arange(400, dtype=np.int32)
    families = [PromptFamily(prompt_ids=ids[:9], responses=(ids[20:90], ids[40 : 40 + length])) for length in range(30, 40)]
    pair = ScoringPair(prm=prm, reference=reference, beta=BETA, pad_id=0, version=0)
    with Counted(max_workers=1) as thread:
        found = replace(pair, beside=Beside(thread=thread)).score(families, 4096)[0]
    assert thread.given == 1
    for ours, expected in zip(chain(*found), chain(*pair.score(families, 4096)[0]), strict=True):
        assert torch.equal(ours.process_rewards, expected.process_rewards)
        assert torch.equal(ours.reference_logprobs, expected.reference_logprobs)


def test_a_borrowed_core_is_taken_for_a_single_prompt_alone(place: Path) -> None:
    prm, reference = (FrozenModel(load_causal_lm(place / name), chunk_tokens=64) for name in ("prm", "reference"))
    ids = np.arange(4000, dtype=np.int32) % 200
    family = PromptFamily(prompt_ids=ids[:9], responses=(ids[9:],))
    with Counted(max_workers=1) as thread:
        pair = ScoringPair(prm=prm, reference=reference, beta=BETA, pad_id=0, version=0, beside=Beside(thread=thread, is_borrowed=True))
        alone = pair.score([family], 4096)[0]
        assert thread.given == 1
        beside_another = pair.score([family, family], 4096)[0]
        assert thread.given == 1
    torch.testing.assert_close(beside_another[1][0].process_rewards, alone[0][0].process_rewards, rtol=0, atol=BESIDE_OTHERS)


def test_sums_of_rewards_are_exact_in_any_order(alone: list[TokenScores]) -> None:
    for found in alone:
        rewards = found.process_rewards.tolist()
        assert sum(rewards) == sum(reversed(rewards)) == math.fsum(rewards)


def test_every_token_is_where_its_text_is(place: Path) -> None:
    conversation = conversations()
    answer = asyncio.run(served(place, [conversation], micro_batch_tokens=4096))[0]
    for asked, item in zip(conversation, answer.items, strict=True):
        assert isinstance(item, ScoredItem)
        spans = item.input.spans
        assert len(spans) == len(item.input.response_ids) == len(item.input.token_texts)
        assert spans[-1] == (len(asked.response), len(asked.response))
        # Tokens that are parts of one character have its place each; together they leave nothing out.
        assert {position for start, end in spans for position in range(start, end)} == set(range(len(asked.response)))


async def test_a_text_far_beyond_the_context_is_refused_unread_and_holds_nobody_up(place: Path) -> None:
    long = ChatInput(messages=(ChatMessage(role="user", content="x"),), response="1+1 = 2. " * 900_000)
    reader = InputReader(load_tokenizer(place / "reference"), end_id=0, longest=CONTEXT)
    # Nothing is read, so no thread is waited for: the answer is there in one turn of the event loop.
    reading = asyncio.create_task(reader.read([Wanted(form=long)]))
    await asyncio.sleep(0)
    assert reading.done()
    assert f"8100001 characters exceed what the model's {CONTEXT} tokens can hold" in str(reading.result()[0])
    within, short = conversations()[10], conversations()[7]
    found = await reader.read([Wanted(form=one) for one in (within, long, short)])
    assert [isinstance(one, str) for one in found] == [False, True, False]
