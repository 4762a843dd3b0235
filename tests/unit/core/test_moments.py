"""Mean and variance of numbers that come in parts."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from oprime.core.moments import Moments, correlation

NUMBERS = st.lists(st.floats(-1000, 1000), max_size=8)


def moments_of_parts(parts: list[list[float]]) -> Moments:
    moments = Moments()
    for part in parts:
        moments.add(torch.tensor(part, dtype=torch.float64))
    return moments


def test_two_parts_are_as_one() -> None:
    # 1, 2 and 6: mean 3, squared distances 4 + 1 + 9, of which 3 - 1 are free.
    moments = moments_of_parts([[1.0, 2.0], [6.0]])
    assert (moments.count, moments.mean, moments.variance, moments.largest) == (3, pytest.approx(3.0), pytest.approx(7.0), 6.0)


@given(st.lists(NUMBERS, max_size=6))
def test_parts_that_are_merged_equal_one_pass(parts: list[list[float]]) -> None:
    moments, every = moments_of_parts(parts), torch.tensor([number for part in parts for number in part], dtype=torch.float64)
    assert moments.count == len(every)
    assert moments.mean == pytest.approx(float(every.mean()) if len(every) else 0.0, abs=1e-9)
    assert moments.largest == (float(every.abs().max()) if len(every) else 0.0)
    assert moments.variance == pytest.approx(float(every.var()) if len(every) > 1 else math.nan, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("parts", [[], [[]], [[3.0]], [[], [3.0]]], ids=str)
def test_fewer_than_two_numbers_have_no_variance(parts: list[list[float]]) -> None:
    assert math.isnan(moments_of_parts(parts).variance)


def test_a_small_deviation_far_from_0_is_not_lost() -> None:
    # A sum of squares less the squared sum would lose it: 1e8 squared has no digit left for 1.
    moments = moments_of_parts([[1e8 + 1, 1e8 + 2], [1e8 + 3], [1e8 + 4]])
    assert moments.variance == pytest.approx(5 / 3)


def test_float32_parts_are_summed_in_float64() -> None:
    moments = Moments()
    for _ in range(1000):
        moments.add(torch.full((100,), 0.1))
    assert moments.mean == pytest.approx(float(torch.tensor(0.1)), abs=1e-15)
    assert moments.variance == pytest.approx(0.0, abs=1e-18)


def test_the_correlation_of_two_numbers_is_found_from_their_sum() -> None:
    # By hand: deviations (-1, 0, 1) and (-1, 2, -1) are orthogonal; (-1, 0, 1) and (-2, 1, 1) have 3 / sqrt(2 * 6).
    one = torch.tensor([1.0, 2, 3])
    for other, expected in (([0.0, 3, 0], 0.0), ([0.0, 3, 3], 3 / 12**0.5), ([2.0, 4, 6], 1.0), ([3.0, 2, 1], -1.0)):
        values = torch.tensor(other)
        parts = [Moments() for _ in range(3)]
        for moments, numbers in zip(parts, (one, values, one + values), strict=True):
            moments.add(numbers[:1])
            moments.add(numbers[1:])
        assert correlation(*parts) == pytest.approx(expected, abs=1e-6)


def test_what_does_not_vary_has_no_correlation() -> None:
    constant, varied = Moments(), Moments()
    constant.add(torch.ones(3))
    varied.add(torch.arange(3.0))
    assert math.isnan(correlation(varied, constant, varied))
    assert math.isnan(correlation(Moments(), Moments(), Moments()))
