"""Sums, means, whitening and returns inside a mask."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from oprime.core.masked import masked_mean, masked_sum, masked_whiten, returns
from rollouts import moments_of

NAN = math.nan
close = torch.testing.assert_close


def whitened(values: Tensor, mask: Tensor) -> Tensor:
    """The values of a whole batch, by their own mean and variance."""
    return masked_whiten(values, mask, moments_of(values, mask))


def test_only_what_is_inside_the_mask_counts() -> None:
    values = torch.tensor([[1.0, 2.0, NAN], [4.0, math.inf, NAN]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    close(masked_sum(values, mask), torch.tensor([3.0, 4.0]))
    close(masked_mean(values, mask), torch.tensor([1.5, 4.0]))


def test_a_rollout_without_tokens_has_sum_and_mean_zero() -> None:
    values, mask = torch.tensor([[5.0]]), torch.tensor([[False]])
    assert masked_sum(values, mask).tolist() == [0.0]
    assert masked_mean(values, mask).tolist() == [0.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_whitening_uses_the_unbiased_variance_of_all_rollouts(dtype: torch.dtype) -> None:
    # 1, 2, 3: mean 2, unbiased variance (1 + 0 + 1) / 2 = 1.
    values = torch.tensor([[1.0, 2.0], [3.0, NAN]], dtype=dtype)
    mask = torch.tensor([[True, True], [True, False]])
    white = whitened(values, mask)
    close(white, torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=dtype), atol=1e-7, rtol=0)


@pytest.mark.parametrize("value", [0.0, 0.1, 1000.1, -3e6])
@pytest.mark.parametrize("count", [0, 1, 2, 37])
def test_equal_values_whiten_to_zero(value: float, count: int) -> None:
    values, mask = torch.full((1, 40), value), torch.zeros(1, 40, dtype=torch.bool)
    mask[0, :count] = True
    close(whitened(values, mask), torch.zeros(1, 40), atol=1e-4, rtol=0)


def test_whitening_an_empty_batch_gives_an_empty_batch() -> None:
    assert whitened(torch.zeros(0, 0), torch.zeros(0, 0, dtype=torch.bool)).shape == (0, 0)
    assert whitened(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.bool)).shape == (0, 3)


@settings(max_examples=60)
@given(
    st.lists(st.integers(-100, 100), min_size=2, max_size=20).filter(lambda values: len(set(values)) > 1),
    st.integers(1, 50),
    st.integers(-1000, 1000),
)
def test_whitening_forgets_shift_and_positive_scale(numbers: list[int], scale: int, shift: int) -> None:
    values = torch.tensor([numbers], dtype=torch.float64)
    mask = torch.ones_like(values, dtype=torch.bool)
    white = whitened(values, mask)
    close(whitened(values * scale + shift, mask), white, atol=1e-6, rtol=0)
    close(whitened(-values, mask), -white, atol=1e-6, rtol=0)
    assert white.mean().item() == pytest.approx(0, abs=1e-9)
    assert white.var().item() == pytest.approx(1, abs=1e-6)


def test_returns_sum_discounted_rewards_to_the_end() -> None:
    rewards = torch.tensor([[7.0, 1.0, 2.0, 4.0, 7.0]], dtype=torch.float64)
    is_trained = torch.tensor([[False, True, True, True, False]])
    close(returns(rewards, is_trained, 1.0), torch.tensor([[0.0, 7.0, 6.0, 4.0, 0.0]], dtype=torch.float64))
    close(returns(rewards, is_trained, 0.5), torch.tensor([[0.0, 3.0, 4.0, 4.0, 0.0]], dtype=torch.float64))
    close(returns(rewards, is_trained, 0.0), torch.tensor([[0.0, 1.0, 2.0, 4.0, 0.0]], dtype=torch.float64))


def test_returns_of_a_row_without_response_are_zero() -> None:
    assert returns(torch.tensor([[NAN, 1.0]]), torch.tensor([[False, False]]), 0.9).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("discount", [1.0, 0.9])
def test_returns_of_nothing_are_nothing(discount: float) -> None:
    assert returns(torch.zeros(0, 0), torch.zeros(0, 0, dtype=torch.bool), discount).shape == (0, 0)
    assert returns(torch.zeros(2, 0), torch.zeros(2, 0, dtype=torch.bool), discount).shape == (2, 0)


@settings(max_examples=60)
@given(st.lists(st.floats(-3, 3), min_size=1, max_size=8), st.sampled_from([0.0, 0.5, 0.9, 1.0]), st.integers(0, 3), st.integers(0, 3))
def test_returns_equal_the_double_sum_and_ignore_padding(rewards: list[float], discount: float, prompt: int, padding: int) -> None:
    size = len(rewards)
    row = [NAN] * prompt + rewards + [NAN] * padding
    mask = [False] * prompt + [True] * size + [False] * padding
    expected = [sum(discount ** (s - t) * rewards[s] for s in range(t, size)) for t in range(size)]
    result = returns(torch.tensor([row], dtype=torch.float64), torch.tensor([mask]), discount)
    assert result[0].tolist() == pytest.approx([0.0] * prompt + expected + [0.0] * padding)
