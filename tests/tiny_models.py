"""Tiny models and rollouts for tests."""

import numpy as np
from transformers import PreTrainedModel, Qwen2Config

from oprime.core.types import Batch, FinishReason, Rollout, VerifiedGroup, VerifiedRollout, WeightVersionSpan
from oprime.core.verification import scored
from oprime.lm.models import random_causal_lm

VOCABULARY = 54


def tiny_model(seed: int = 0) -> PreTrainedModel:
    """A Qwen2 of two layers with random weights."""
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=False,
    )
    return random_causal_lm(config, seed)


def verified_rollout(group: int, index: int, score: float, response: list[int], *, version: int = 0) -> VerifiedRollout:
    """A rollout of prompt 3, 4, 5 with behaviour log-probs of -1."""
    rollout = Rollout(
        group_id=group,
        index=index,
        seed=index,
        prompt_ids=np.array([3, 4, 5], dtype=np.int32),
        response_ids=np.array(response, dtype=np.int32),
        text="",
        behaviour_logprobs=np.full(len(response), -1.0, dtype=np.float32),
        spans=(WeightVersionSpan(start=0, end=len(response), version=version),),
        finish_reason=FinishReason.STOP,
    )
    return VerifiedRollout(rollout=rollout, outcome=scored(float(score)))


def batch_of(step: int, groups: int = 3, *, seed: int = 0, version: int = 0, baselines: bool = False) -> Batch:
    """Groups of four rollouts of uneven length; the first two of each group are right, and every other greedy baseline."""
    dice = np.random.default_rng([seed, step])
    # Of its own, so that the rollouts are the same with and without baselines.
    greedy = np.random.default_rng([seed, step, 1])
    return Batch(
        step=step,
        groups=tuple(
            VerifiedGroup(
                group_id=10 * step + group,
                rollouts=tuple(
                    verified_rollout(
                        10 * step + group,
                        index,
                        1.0 if index < 2 else 0.0,
                        dice.integers(6, VOCABULARY, size=int(dice.integers(1, 7))).tolist(),
                        version=version,
                    )
                    for index in range(4)
                ),
                baseline=verified_rollout(
                    10 * step + group, 4, float(group % 2 == 0), greedy.integers(6, VOCABULARY, size=3 + group).tolist(), version=version
                )
                if baselines
                else None,
            )
            for group in range(groups)
        ),
    )
