"""What holds for every estimator that there is; and a new one is one file, which no loop knows of."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from guide import example, one_more_file
from oprime.core import estimators
from oprime.core.advantage import Choices, Estimate, Estimator, GreedyRewards, Need, Rewards
from oprime.core.types import ProcessRewards
from oprime.lm.token_logprobs import TokenLogprobModel
from oprime.runtime.settings import AlgorithmSection
from oprime_cli.algorithm_docs import table_of
from oprime_learner.config import LearnerSection
from oprime_learner.policy_trainer import PolicyTrainer
from plain_engine import PlainEngine
from random_batches import Case, cases
from rollouts import CONTENTS
from tiny_models import batch_of, tiny_model


def rewards_of(case: Case, estimator: str) -> Rewards:
    """What the estimator needs, made up from the case."""
    needs = estimators.named(estimator).needs
    by_group = torch.tensor([group_id % 5 / 4 for group_id in case.group_ids], dtype=torch.float64)
    return Rewards(
        process=case.matrix(case.numbers[0]),
        rewarded=case.is_trained,
        outcome=case.outcome_rewards,
        is_trained=case.is_trained,
        group_ids=case.ids,
        greedy=GreedyRewards(outcome=by_group, process_mean=-by_group) if Need.GREEDY_RESPONSE in needs else None,
        values=case.matrix(case.numbers[1]) if Need.CRITIC in needs else None,
    )


CHOICES = Choices(process_weight=0.5, outcome_weight=2.0)


def with_defaults(name: str) -> Estimator:
    return estimators.named(name).with_settings({})


def matrices(estimate: Estimate) -> list[Tensor]:
    found = [estimate.advantages, estimate.sources.process, estimate.sources.outcome]
    return found if estimate.value_targets is None else [*found, estimate.value_targets]


@pytest.mark.parametrize("name", estimators.names())
@settings(max_examples=20)
@given(case=cases(numbers=2), data=st.data())
def test_the_order_of_rollouts_changes_nothing(name: str, case: Case, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(case.lengths))))
    estimate = with_defaults(name).estimate
    straight = matrices(estimate(rewards_of(case, name), CHOICES))
    shuffled_case = case.reordered(list(order))
    shuffled = matrices(estimate(rewards_of(shuffled_case, name), CHOICES))
    for one, other in zip(straight, shuffled, strict=True):
        rows = case.rows_of(one)
        for ours, place in zip(shuffled_case.rows_of(other), order, strict=True):
            assert ours == pytest.approx(rows[place], abs=1e-7, rel=1e-6)


@pytest.mark.parametrize("name", estimators.names())
@settings(max_examples=20)
@given(case=cases(numbers=2))
def test_what_stands_outside_the_responses_changes_nothing_and_gets_0(name: str, case: Case) -> None:
    estimate = with_defaults(name).estimate
    rewards = rewards_of(case, name)
    filled = dataclasses.replace(
        rewards,
        process=rewards.process.where(rewards.is_trained, math.nan),
        values=None if rewards.values is None else rewards.values.where(rewards.is_trained, math.nan),
    )
    zeroed = dataclasses.replace(
        rewards,
        process=rewards.process.where(rewards.is_trained, 0.0),
        values=None if rewards.values is None else rewards.values.where(rewards.is_trained, 0.0),
    )
    for one, other in zip(matrices(estimate(filled, CHOICES)), matrices(estimate(zeroed, CHOICES)), strict=True):
        assert torch.equal(one, other)
        assert bool((one[~rewards.is_trained] == 0).all())


@pytest.mark.parametrize("name", [name for name in estimators.names() if estimators.named(name).needs - {Need.SIBLINGS}])
def test_an_estimator_refuses_a_batch_without_what_it_needs(name: str) -> None:
    one = torch.ones(2, 1)
    rewards = Rewards(process=one, rewarded=one.bool(), outcome=one[:, 0], is_trained=one.bool(), group_ids=torch.tensor([0, 0]))
    with pytest.raises(ValueError, match=r"algorithm\.estimator needs .*: (pass|issue) one"):
        with_defaults(name).estimate(rewards, CHOICES)


def test_the_estimator_of_the_guide_is_one_file_and_trains(tmp_path: Path) -> None:
    with one_more_file(estimators, tmp_path, "median", example("median")):
        assert "O_t = g^(T-t) (r_o - median of r_o over the batch)" in table_of(estimators)
        train_with_the_median()


def train_with_the_median() -> None:
    algorithm = AlgorithmSection.model_validate({"estimator": "median", "process_weight": 0})
    assert (algorithm.needs_siblings, algorithm.needs_critic, algorithm.needs_greedy_baseline) == (False, False, False)
    engine = PlainEngine(TokenLogprobModel(tiny_model(), chunk_tokens=7), adam_eps=1e-5)
    section = LearnerSection(learning_rate=1e-3)
    trainer = PolicyTrainer(engine, algorithm, section, CONTENTS, pad_id=0, total_steps=10)
    batch = batch_of(1)
    process = [np.zeros(one.rollout.trained_tokens, dtype=np.float32) for one in batch.rollouts]
    before = {name: value.clone() for name, value in engine.model.state_dict().items()}
    metrics = trainer.process(batch, ProcessRewards(rollouts=process))
    # Half of the rollouts earn 1: the lower median is 0, so that what is left of an outcome is the outcome.
    tokens = [(one.outcome_reward, one.rollout.trained_tokens) for one in batch.rollouts]
    mean = sum(outcome * count for outcome, count in tokens) / sum(count for _, count in tokens)
    assert metrics["outcome_return_mean"] == pytest.approx(mean)
    assert any(not torch.equal(before[name], value) for name, value in engine.model.state_dict().items())
