"""Responses that were cut at the token limit: without a loss, or with a penalty before it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from oprime.core.types import Batch, FinishReason, ProcessRewards, VerifiedRollout
from oprime.lm.token_logprobs import TokenLogprobModel
from oprime.runtime.settings import AlgorithmSection
from oprime_learner.config import LearnerSection
from oprime_learner.policy_trainer import PolicyTrainer
from plain_engine import PlainEngine
from rollouts import CONTENTS, content, written
from tiny_models import batch_of, tiny_model

AGGREGATIONS = ({}, {"aggregation": "sequences"}, {"aggregation": "groups"}, {"aggregation": "constant", "constant_tokens": 8})


def cut(batch: Batch, *indices: int) -> Batch:
    """The batch in which the rollouts of these indices were truncated."""

    def of(one: VerifiedRollout) -> VerifiedRollout:
        reason = FinishReason.LENGTH if one.rollout.index in indices else FinishReason.STOP
        return replace(one, rollout=written(replace(content(one), finish_reason=reason)))

    return replace(batch, groups=tuple(replace(group, rollouts=tuple(map(of, group.rollouts))) for group in batch.groups))


class Learner:
    def __init__(self, *, max_response_tokens: int = 6, **algorithm: object) -> None:
        self.engine = PlainEngine(TokenLogprobModel(tiny_model(), chunk_tokens=7), adam_eps=1e-5)
        self._start = [weight.clone() for _, weight in self.engine.weights()]
        self._trainer = PolicyTrainer(
            self.engine,
            AlgorithmSection.model_validate({"process_weight": 0.0, **algorithm}),
            LearnerSection(learning_rate=1e-3, micro_batch_rollouts=5),
            CONTENTS,
            pad_id=0,
            total_steps=10,
            max_response_tokens=max_response_tokens,
        )

    def process(self, batch: Batch) -> dict[str, float]:
        return self._trainer.process(batch, ProcessRewards())

    @property
    def moved(self) -> bool:
        return any(not torch.equal(one, other) for one, (_, other) in zip(self._start, self.engine.weights(), strict=True))


@pytest.mark.parametrize("aggregation", AGGREGATIONS, ids=str)
def test_what_was_cut_counts_in_no_denominator_and_stays_a_sibling(aggregation: dict[str, object]) -> None:
    # With ratios of 1 the loss of a token is -A.
    batch = cut(batch_of(1), 1)
    options = {**aggregation, "correction": "none", "whiten_advantages": False}
    found = Learner(mask_truncated=True, **options).process(batch)
    assert found["masked_rollouts_ratio"] == pytest.approx(0.25)
    # Leave-one-out over outcomes 1, 1, 0, 0, the cut one included: 2/3 and -2/3.
    kept = [(2 * one.outcome_reward - 1, one.rollout) for one in batch.rollouts if one.rollout.index != 1]
    tokens = np.array([rollout.trained_tokens for _, rollout in kept], dtype=float)
    signs = np.array([sign for sign, _ in kept])
    per_group = tokens.reshape(3, 3).sum(1).repeat(3)
    divisors = {"tokens": tokens.sum(), "sequences": 9 * tokens, "groups": 3 * per_group, "constant": 9 * 8}
    expected = -(2 / 3 * signs * tokens / divisors[str(aggregation.get("aggregation", "tokens"))]).sum()
    assert found["policy_loss"] == pytest.approx(expected, abs=1e-6)
    assert found["outcome_return_std"] > 0


def test_a_step_in_which_all_was_cut_teaches_nothing() -> None:
    learner = Learner(mask_truncated=True)
    found = learner.process(cut(batch_of(1), 0, 1, 2, 3))
    assert (found["policy_loss"], found["policy_gradient_norm"], found["masked_rollouts_ratio"]) == (0, 0, 1)
    assert not learner.moved
    assert Learner().process(cut(batch_of(1), 0, 1, 2, 3))["policy_loss"] != 0


def test_a_group_in_which_all_was_cut_counts_nowhere() -> None:
    batch = batch_of(1, groups=2)
    whole = cut(replace(batch, groups=batch.groups[:1]), 0, 1, 2, 3).groups
    both = Learner(mask_truncated=True, aggregation="groups", whiten_advantages=False)
    alone = Learner(aggregation="groups", whiten_advantages=False)
    loss = both.process(replace(batch, groups=(*whole, batch.groups[1])))["policy_loss"]
    assert loss == pytest.approx(alone.process(replace(batch, groups=batch.groups[1:]))["policy_loss"], abs=1e-6)


def test_the_penalty_comes_off_outcomes_before_their_baseline() -> None:
    batch = batch_of(1, groups=1)
    lengths = [one.rollout.trained_tokens for one in batch.rollouts]
    rewards = [outcome - 0.5 * max(length - 2, 0) / 4 for outcome, length in zip((1, 1, 0, 0), lengths, strict=True)]
    assert len(set(rewards)) > 2
    found = Learner(overlong_buffer=4, overlong_penalty=0.5, whiten_advantages=False).process(batch)
    parts = [reward - (sum(rewards) - reward) / 3 for reward in rewards]
    mean = sum(part * length for part, length in zip(parts, lengths, strict=True)) / sum(lengths)
    assert found["outcome_return_mean"] == pytest.approx(mean)
    assert found["overlong_penalty_mean"] == pytest.approx((2 - sum(rewards)) / 4)
    assert found["trained_outcome_reward_mean"] == 0.5


def test_a_penalty_without_the_limit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"algorithm.overlong_buffer \(7\) needs the limit of responses, at least as long: pass it"):
        Learner(overlong_buffer=7)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"overlong_penalty": 0.5}, r"overlong_penalty \(0.5\) does nothing with algorithm.overlong_buffer = 0"),
        ({"overlong_buffer": 5, "outcome_weight": 0}, r"overlong_buffer \(5\) does nothing with algorithm.outcome_weight = 0"),
    ],
)
def test_a_penalty_that_does_nothing_is_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        AlgorithmSection.model_validate(settings)
