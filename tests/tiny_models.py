"""Tiny models and rollouts for tests."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, Qwen2Config

from oprime.core.types import Batch, Rollout, VerifiedGroup, VerifiedRollout
from oprime.lm.models import random_causal_lm
from rollouts import content, in_turns, single_turn, verified, written

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


def with_weights_in(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """The same model: buffers (rotary frequencies) stay as they are, as in a model that is loaded in a type, or that DeepSpeed casts."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def verified_rollout(group: int, index: int, score: float, response: list[int], *, version: int = 0) -> VerifiedRollout:
    """A rollout of prompt 3, 4, 5 with behaviour log-probs of -1, in the tests' store."""
    return verified(single_turn(group, index, [3, 4, 5], response, version=version, seed=index), score)


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


def batch_in_turns(step: int, *, baselines: bool = False) -> Batch:
    """`batch_of`, into whose responses others wrote: the same trained tokens, most with gaps between them."""

    def gapped(one: VerifiedRollout) -> VerifiedRollout:
        return replace(one, rollout=written(in_turns(content(one))))

    return Batch(
        step=step,
        groups=tuple(
            replace(group, rollouts=tuple(map(gapped, group.rollouts)), baseline=group.baseline and gapped(group.baseline))
            for group in batch_of(step, baselines=baselines).groups
        ),
    )


def plain_logprobs(model: PreTrainedModel, rollout: Rollout) -> Tensor:
    """Log-prob of each trained token, the obvious way: one row without padding, all logits, log-softmax, pick."""
    token_ids, is_trained = torch.tensor(rollout.token_ids.tolist()), torch.from_numpy(rollout.is_trained)
    logits = model(input_ids=token_ids[None], use_cache=False).logits[0, :-1]
    return logits.log_softmax(-1).gather(-1, token_ids[1:, None]).squeeze(-1)[is_trained[1:]]
