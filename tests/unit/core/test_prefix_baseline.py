"""Prefix values as a baseline."""

import math

import pytest
import torch

from oprime.core import estimators
from oprime.core.advantage import Choices, Rewards
from oprime.runtime.settings import AlgorithmSection

# The worked example of prefix values: beta 10 times these log-ratios, with v = [3, 5, 4], [1, -.5], [-4, -1.5, -3, -2.125], [.5].
IS_TRAINED = torch.tensor([[False] + [token < length for token in range(4)] for length in (3, 2, 4, 1)])
PROCESS = torch.zeros(4, 5, dtype=torch.float64).masked_scatter(
    IS_TRAINED, torch.tensor([3.0, 7, 2, 1, -2, -4, 1, -6, 0.5, 0.5], dtype=torch.float64)
)
REWARDS = Rewards(
    process=PROCESS,
    rewarded=IS_TRAINED,
    outcome=torch.tensor([1.0, 1.0, 0.0, 1.0], dtype=torch.float64),
    is_trained=IS_TRAINED,
    group_ids=torch.tensor([7, 7, 7, 7]),
)


@pytest.mark.parametrize("offset", [False, True])
def test_every_token_has_the_outcome_less_the_chance_before_it(offset: bool) -> None:
    found = estimators.named("prefix_baseline").with_settings({"value_offset": offset}).estimate(REWARDS, Choices())
    b = math.log(3) if offset else 0  # three of four are right
    before = [[0, 3, 5], [0, 1], [0, -4, -1.5, -3], [0]]
    expected = [
        outcome - 1 / (1 + math.exp(-(value + b))) for outcome, values in zip((1, 1, 0, 1), before, strict=True) for value in values
    ]
    assert found.advantages[IS_TRAINED].tolist() == pytest.approx(expected)
    assert not found.advantages[~IS_TRAINED].any()


NEEDED = {"estimator": "prefix_baseline", "process_normalisation": "none"}


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({"process_normalisation": "batch_norm"}, "set algorithm.process_normalisation=none"),
        ({"process_discount": 0.9}, "set algorithm.process_discount=1"),
        ({"granularity": "sequence"}, "set algorithm.granularity=token"),
        ({"process_credit": "min"}, "set algorithm.process_credit=sum"),
    ],
)
def test_rewards_that_are_no_values_any_more_are_refused(changes: dict[str, object], remedy: str) -> None:
    AlgorithmSection.model_validate(NEEDED)
    with pytest.raises(ValueError, match=f'"prefix_baseline" reads the PRM\'s rewards as values .* {remedy}'):
        AlgorithmSection.model_validate(NEEDED | changes)
