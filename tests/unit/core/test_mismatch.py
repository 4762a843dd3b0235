"""The mismatch of sampler and learner."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oprime.core.mismatch import mismatch

NAN = math.nan


def test_mismatch_of_two_tokens() -> None:
    # Ratios 2 and 1: k1 = -(ln 2 + 0) / 2; k3 = ((2 - 1 - ln 2) + 0) / 2; one of two ratios is outside [0.9, 1.1].
    sampler = torch.tensor([[NAN, -1.0, -2.0]])
    learner = torch.tensor([[0.0, -1.0 + math.log(2), -2.0]])
    result = mismatch(sampler, learner, torch.tensor([[False, True, True]]))
    assert result.tokens == 2
    assert result.kl_k1 == pytest.approx(-math.log(2) / 2, abs=1e-6)
    assert result.kl_k3 == pytest.approx((1 - math.log(2)) / 2, abs=1e-6)
    assert result.ratio_p99 == pytest.approx(2.0, abs=1e-6)
    assert result.ratio_p01 == 1.0
    assert result.ratio_max == pytest.approx(2.0, abs=1e-6)
    assert result.outside_ratio == 0.5


def test_the_99th_percentile_of_200_ratios_is_the_198th() -> None:
    ratios = torch.arange(1, 201, dtype=torch.float64).flip(0)[None] / 100
    result = mismatch(torch.zeros_like(ratios), ratios.log(), torch.ones_like(ratios, dtype=torch.bool))
    assert result.ratio_p99 == pytest.approx(1.98)
    assert result.outside_ratio == pytest.approx((89 + 90) / 200, abs=0.011)  # the ends 0.90 and 1.10 are subject to rounding


def test_no_tokens_no_mismatch() -> None:
    empty = torch.zeros(0, 3)
    result = mismatch(empty, empty, empty.bool())
    assert (result.tokens, result.kl_k1, result.kl_k3, result.ratio_p99, result.outside_ratio) == (0, 0.0, 0.0, 1.0, 0.0)
    assert (result.ratio_p01, result.ratio_max) == (1.0, 1.0)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.floats(-8, 0), st.floats(-8, 0)), min_size=1, max_size=20))
def test_k3_is_never_negative(pairs: list[tuple[float, float]]) -> None:
    sampler = torch.tensor([[pair[0] for pair in pairs]], dtype=torch.float64)
    learner = torch.tensor([[pair[1] for pair in pairs]], dtype=torch.float64)
    result = mismatch(sampler, learner, torch.ones_like(sampler, dtype=torch.bool))
    assert result.kl_k3 >= -1e-12
    assert result.kl_k1 == pytest.approx(sum(pair[0] - pair[1] for pair in pairs) / len(pairs))
