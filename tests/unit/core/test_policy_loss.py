"""The clipped policy loss and the mismatch of sampler and learner."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from oprime.core.policy_loss import PolicyLoss, mismatch, policy_loss

close = torch.testing.assert_close
NAN = math.nan

PROXIMAL = torch.tensor([[-1, -0.5, -2], [-0.3, -1.2, NAN]], dtype=torch.float64)
POLICY = torch.tensor([[-0.7, -0.6, -2], [-0.6, -1, NAN]], dtype=torch.float64)
ADVANTAGES = torch.tensor([[1, -1, 0.5], [2, -0.5, NAN]], dtype=torch.float64)
MASK = torch.tensor([[True, True, True], [True, True, False]])


def loss_of(policy: Tensor, *, rows: slice = slice(None), behaviour: Tensor = PROXIMAL, **changes: Any) -> PolicyLoss:
    options: dict[str, Any] = {"clip_low": 0.2, "clip_high": 0.2, "importance_cap": 2.0, "token_count": 5}
    return policy_loss(policy[rows], PROXIMAL[rows], behaviour[rows], ADVANTAGES[rows], MASK[rows], **(options | changes))


def one_token(log_ratio: float, advantage: float, **changes: Any) -> PolicyLoss:
    """The loss of a single token whose proximal and behaviour log-probs are -1."""
    options: dict[str, Any] = {"clip_low": 0.2, "clip_high": 0.2, "importance_cap": 2.0, "token_count": 1}
    start = torch.tensor([[-1.0]], dtype=torch.float64)
    advantages = torch.tensor([[advantage]], dtype=torch.float64)
    behaviour = start - changes.pop("behaviour_gap", 0.0)
    mask = torch.ones(1, 1, dtype=torch.bool)
    return policy_loss(start + log_ratio, start, behaviour, advantages, mask, **(options | changes))


def test_loss_of_the_worked_example() -> None:
    # Ratios 1.349859, 0.904837, 1 | 0.740818, 1.221403; losses -1.2, 0.904837, -0.5 | -1.481636, 0.610701.
    result = loss_of(POLICY)
    assert result.loss.item() == pytest.approx(-0.33322, abs=1e-6)
    assert result.tokens == 5
    assert result.clipped_tokens / result.tokens == pytest.approx(0.2)
    assert result.kl_sum / result.tokens == pytest.approx(-0.02)
    assert result.capped_tokens == 0
    assert result.importance_weight_sum == pytest.approx(5.0)


def test_float32_agrees() -> None:
    policy, proximal, advantages = POLICY.float(), PROXIMAL.float(), ADVANTAGES.float()
    result = policy_loss(policy, proximal, proximal, advantages, MASK, clip_low=0.2, clip_high=0.2, importance_cap=2.0, token_count=5)
    assert result.loss.dtype == torch.float32
    assert result.loss.item() == pytest.approx(-0.33322, abs=1e-6)


def test_a_mean_of_micro_batch_means_would_be_something_else() -> None:
    means = [loss_of(POLICY, rows=slice(row, row + 1), token_count=tokens).loss.item() for row, tokens in ((0, 3), (1, 2))]
    assert sum(means) / 2 == pytest.approx(-0.350261, abs=1e-6)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2))
def test_splitting_into_micro_batches_changes_neither_loss_nor_gradient(cut: int) -> None:
    whole, parts = POLICY.clone().requires_grad_(), POLICY.clone().requires_grad_()
    expected = loss_of(whole)
    expected.loss.backward()
    results = [loss_of(parts, rows=slice(0, cut)), loss_of(parts, rows=slice(cut, None))]
    total = results[0].loss + results[1].loss
    total.backward()
    close(total, expected.loss)
    close(parts.grad, whole.grad)
    for name in ("tokens", "clipped_tokens", "capped_tokens", "kl_sum", "importance_weight_sum"):
        assert sum(getattr(result, name) for result in results) == pytest.approx(getattr(expected, name))


def test_the_gradient_at_the_start_is_the_plain_policy_gradient() -> None:
    policy = PROXIMAL.clone().requires_grad_()
    loss_of(policy).loss.backward()
    assert policy.grad is not None
    close(policy.grad, (-ADVANTAGES / 5).where(MASK, 0.0))


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped"),
    [
        (1.5, 1.0, -1.3, True),
        (1.5, -1.0, 1.5, False),
        (0.5, 1.0, -0.5, False),
        (0.5, -1.0, 0.9, True),
        (1.25, 1.0, -1.25, False),
        (0.95, -1.0, 0.95, False),
    ],
)
def test_the_clip_has_two_sides_of_its_own(ratio: float, advantage: float, loss: float, clipped: bool) -> None:
    result = one_token(math.log(ratio), advantage, clip_low=0.1, clip_high=0.3)
    assert result.loss.item() == pytest.approx(loss)
    assert result.clipped_tokens == int(clipped)


@pytest.mark.parametrize(("gap", "weight", "capped"), [(math.log(1.5), 1.5, 0), (math.log(5), 2.0, 1), (-math.log(4), 0.25, 0)])
def test_stale_tokens_are_reweighted_up_to_the_cap(gap: float, weight: float, capped: int) -> None:
    result = one_token(0.0, 1.0, behaviour_gap=gap)
    assert result.loss.item() == pytest.approx(-weight)
    assert result.importance_weight_sum == pytest.approx(weight)
    assert result.capped_tokens == capped


def test_the_importance_weight_carries_no_gradient() -> None:
    # With w = 1.5 and A = 3 the gradient is -w * A for the policy; the proximal policy's is w * A, through r alone
    # (through w as well, it would be 0).
    policy = torch.tensor([[-1.0]], dtype=torch.float64, requires_grad=True)
    behaviour = policy.detach() - math.log(1.5)
    advantages, mask = torch.tensor([[3.0]], dtype=torch.float64), torch.ones(1, 1, dtype=torch.bool)
    options = {"clip_low": 0.2, "clip_high": 0.2, "importance_cap": 2.0, "token_count": 1}
    policy_loss(policy, policy.detach(), behaviour, advantages, mask, **options).loss.backward()
    assert policy.grad is not None
    assert policy.grad.item() == pytest.approx(-4.5)
    proximal = policy.detach().clone().requires_grad_()
    policy_loss(policy.detach(), proximal, behaviour, advantages, mask, **options).loss.backward()
    assert proximal.grad is not None
    assert proximal.grad.item() == pytest.approx(4.5)


def test_extreme_ratios_stay_finite() -> None:
    for log_ratio, advantage in ((1000.0, -1.0), (1000.0, 0.0), (-1000.0, -1.0)):
        assert math.isfinite(one_token(log_ratio, advantage).loss.item())
    assert one_token(0.0, 1.0, behaviour_gap=1000.0).loss.item() == pytest.approx(-2.0)


def test_padding_may_hold_anything() -> None:
    policy = POLICY.clone().requires_grad_()
    loss_of(policy).loss.backward()
    assert policy.grad is not None
    assert policy.grad[1, 2].item() == 0.0
    assert policy.grad.isfinite().all()


def test_an_empty_micro_batch_adds_nothing_and_still_has_a_gradient() -> None:
    policy = POLICY.clone().requires_grad_()
    result = loss_of(policy, rows=slice(0, 0))
    assert (result.loss.item(), result.tokens, result.kl_sum) == (0.0, 0, 0.0)
    result.loss.backward()
    assert policy.grad is not None
    assert not policy.grad.any()


def test_a_step_without_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match=r"token_count \(0\) must be positive"):
        loss_of(POLICY, token_count=0)


def test_mismatch_of_two_tokens() -> None:
    # Ratios 2 and 1: k1 = -(ln 2 + 0) / 2; k3 = ((2 - 1 - ln 2) + 0) / 2; one of two ratios is outside [0.9, 1.1].
    sampler = torch.tensor([[NAN, -1.0, -2.0]])
    learner = torch.tensor([[0.0, -1.0 + math.log(2), -2.0]])
    result = mismatch(sampler, learner, torch.tensor([[False, True, True]]))
    assert result.tokens == 2
    assert result.kl_k1 == pytest.approx(-math.log(2) / 2, abs=1e-6)
    assert result.kl_k3 == pytest.approx((1 - math.log(2)) / 2, abs=1e-6)
    assert result.ratio_p99 == pytest.approx(2.0, abs=1e-6)
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


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.floats(-8, 0), st.floats(-8, 0)), min_size=1, max_size=20))
def test_k3_is_never_negative(pairs: list[tuple[float, float]]) -> None:
    sampler = torch.tensor([[pair[0] for pair in pairs]], dtype=torch.float64)
    learner = torch.tensor([[pair[1] for pair in pairs]], dtype=torch.float64)
    result = mismatch(sampler, learner, torch.ones_like(sampler, dtype=torch.bool))
    assert result.kl_k3 >= -1e-12
    assert result.kl_k1 == pytest.approx(sum(pair[0] - pair[1] for pair in pairs) / len(pairs))
