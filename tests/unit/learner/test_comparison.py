"""Sampler and learner are compared on all tokens of a small step, and on an even sample of a large one."""

import numpy as np
import pytest
import torch

from oprime.lm.batches import MicroBatch, RowFetcher
from oprime_learner.metrics import Comparison, mismatch_metrics
from rollouts import CONTENTS
from tiny_models import batch_of

BATCH = batch_of(1)
TOKENS = sum(one.rollout.trained_tokens for one in BATCH.rollouts)


def compared(most: int) -> np.ndarray:
    fetcher = RowFetcher(CONTENTS, pad_id=0)
    comparison = Comparison(TOKENS, most)
    numbers = iter(range(TOKENS))
    for place, one in enumerate(BATCH.rollouts):
        micro = MicroBatch(positions=[place], records=[one.rollout], fetcher=fetcher)
        logprobs = torch.zeros(micro.rows.is_trained.shape)
        logprobs[micro.rows.is_trained] = torch.tensor([float(next(numbers)) for _ in range(one.rollout.trained_tokens)])
        comparison.add(micro, logprobs)
    return np.frombuffer(comparison.to_bytes(), dtype="<f4").reshape(2, -1)


def test_all_tokens_of_a_small_step_are_compared() -> None:
    sampler, learner = compared(most=1000)
    assert learner.tolist() == list(range(TOKENS))
    assert sampler.tolist() == [-1.0] * TOKENS


@pytest.mark.parametrize("most", [1, 5, 10, TOKENS - 1])
def test_of_a_large_step_every_nth_token_is_compared_whatever_its_micro_batch(most: int) -> None:
    stride = -(-TOKENS // most)
    assert compared(most)[1].tolist() == list(range(0, TOKENS, stride))


def test_only_rank_0_tells_of_it() -> None:
    assert mismatch_metrics(None) == {}
    assert mismatch_metrics([compared(1000).tobytes()])["mismatch_kl_k1_nats"] != 0
