"""REINFORCE++-baseline: the group's mean, the batch's deviation."""

import statistics

import pytest
import torch

from oprime.core import estimators
from oprime.core.advantage import Choices, Rewards
from oprime.runtime.settings import AlgorithmSection
from rollouts import moments_of

IS_TRAINED = torch.tensor([[True, False], [True, True], [True, False], [True, True]])
REWARDS = Rewards(
    process=torch.tensor([[0.2, 0.0], [0.4, 0.0], [0.6, 0.0], [0.0, 0.0]], dtype=torch.float64),
    rewarded=IS_TRAINED,
    outcome=torch.tensor([1.0, 0.0, 1.0, 0.5], dtype=torch.float64),
    is_trained=IS_TRAINED,
    group_ids=torch.tensor([1, 1, 2, 2]),
)


def test_rewards_less_their_groups_mean_are_scaled_by_the_whole_batch() -> None:
    estimate = estimators.named("reinforce_baseline").estimate(REWARDS, Choices())
    # Outcome means are 1/2 and 3/4. Means of token rewards are .2, .2 and .6, 0: the groups' are .2 and .3.
    assert estimate.sources.outcome.tolist() == [[0.5, 0], [-0.5, -0.5], [0.25, 0], [-0.25, -0.25]]
    process = [0, 0.2 - 0.2, -0.2, 0.3, -0.6, -0.3]
    assert estimate.sources.process[IS_TRAINED].tolist() == pytest.approx(process)
    added = [part + own for part, own in zip(process, [0.5, -0.5, -0.5, 0.25, -0.25, -0.25], strict=True)]
    white = estimate.whitened(IS_TRAINED, moments_of(estimate.advantages, IS_TRAINED)).advantages[IS_TRAINED].tolist()
    mean, deviation = statistics.mean(added), statistics.stdev(added)
    assert white == pytest.approx([(value - mean) / deviation for value in added], abs=1e-6)


def test_without_the_batchs_deviation_it_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r'"reinforce_baseline" scales by .* set algorithm.whiten_advantages=true, or .*divide_by_std=false'
    ):
        AlgorithmSection.model_validate({"estimator": "reinforce_baseline", "whiten_advantages": False})
