"""How much of token rewards is rounding."""

import math

import pytest
import torch

from oprime.core.reward_noise import RewardNoise, reward_noise


def test_noise_and_signal_are_root_mean_squares_over_all_tokens() -> None:
    # Errors 3, -4 and 0, 0: mean square 25/4. Exact values 1, 1 and 1, -1: mean square 1.
    found = reward_noise([torch.tensor([4.0, -3.0]), torch.tensor([1.0, -1.0])], [torch.tensor([1.0, 1.0]), torch.tensor([1.0, -1.0])])
    assert found == RewardNoise(2.5, 1.0, 4.0)
    assert found.signal_to_noise == pytest.approx(0.4)


def test_the_largest_return_sums_errors_from_a_token_to_the_end() -> None:
    # Errors 1, 2, -1: the sums to the end are 2, 1, -1.
    assert reward_noise([torch.tensor([1.0, 2.0, -1.0])], [torch.zeros(3)]).largest_return == 2.0


def test_the_correlation_follows_from_signal_and_noise() -> None:
    dice = torch.Generator().manual_seed(0)
    exact, noise = (torch.randn(200_000, generator=dice, dtype=torch.float64) for _ in range(2))
    computed = exact + 2.0 * noise
    found = reward_noise([computed], [exact])
    measured = float(torch.corrcoef(torch.stack([computed, exact]))[0, 1])
    assert found.correlation == pytest.approx(1 / math.sqrt(5), abs=0.01)
    assert measured == pytest.approx(found.correlation, abs=0.01)


@pytest.mark.parametrize("responses", [[], [torch.zeros(0)]])
def test_nothing_has_no_noise(responses: list[torch.Tensor]) -> None:
    found = reward_noise(responses, responses)
    assert found == RewardNoise(0.0, 0.0, 0.0)
    assert math.isnan(found.signal_to_noise)
