"""Estimates of the KL to the reference."""

import math

import pytest
import torch
from hypothesis import given, settings

from golden import slow_reference as slow
from oprime.core.kl import KlEstimator, outcome_rewards_less_kl, token_kl
from random_batches import Case, cases

ESTIMATORS: tuple[KlEstimator, ...] = ("k1", "k2", "k3")


@pytest.mark.parametrize(("estimator", "expected"), [("k1", math.log(2)), ("k2", math.log(2) ** 2 / 2), ("k3", math.log(2) - 0.5)])
def test_kl_of_a_token_that_the_policy_likes_twice_as_much(estimator: KlEstimator, expected: float) -> None:
    policy, mask = torch.tensor([[-1.0, math.nan]], dtype=torch.float64), torch.tensor([[True, False]])
    assert token_kl(policy, policy - math.log(2), mask, estimator=estimator).tolist() == [[pytest.approx(expected), 0.0]]


@pytest.mark.parametrize("estimator", ESTIMATORS)
@settings(max_examples=30)
@given(case=cases(numbers=2))
def test_every_estimator_equals_its_slow_implementation(estimator: KlEstimator, case: Case) -> None:
    policy, reference = (case.matrix(rows) for rows in case.numbers)
    ours = case.rows_of(token_kl(policy, reference, case.is_trained, estimator=estimator))
    for i, row in enumerate(ours):
        pairs = zip(case.numbers[0][i], case.numbers[1][i], strict=True)
        assert row == pytest.approx([slow.token_kl(*pair, estimator) for pair in pairs], abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_k3_pulls_back_whatever_is_far_away(dtype: torch.dtype) -> None:
    # d/dlog pi of exp(-d) - 1 + d is 1 - exp(-d): negative (a larger log pi lowers the loss) where the policy has given a token up, and
    # positive where it likes it more than the reference does, however far away. Beyond 20 nats it stays that of 20 nats.
    distances = [-500.0, -30.0, -20.5, -19.0, -1.0, 1.0, 19.0, 500.0]
    policy = torch.tensor([distances], dtype=dtype, requires_grad=True)
    kl = token_kl(policy, torch.zeros_like(policy), torch.ones_like(policy, dtype=torch.bool), estimator="k3")
    kl.sum().backward()
    assert policy.grad is not None
    assert policy.grad[0].tolist() == pytest.approx([1 - math.exp(-max(distance, -20.0)) for distance in distances], rel=1e-5)
    values = kl[0].tolist()
    assert all(math.isfinite(value) and value > 0 for value in values)
    assert values[:5] == sorted(values[:5], reverse=True)


def test_in_the_reward_the_kl_of_a_whole_response_is_paid() -> None:
    kl, mask = torch.tensor([[0.5, 1.0, math.nan]]), torch.tensor([[True, True, False]])
    assert outcome_rewards_less_kl(torch.tensor([1.0]), kl, mask, coefficient=0.2).tolist() == [pytest.approx(0.7)]


def test_as_a_loss_k2_has_the_gradient_of_the_kl_and_k1_none_on_average() -> None:
    # Expectation over all tokens of a small vocabulary, each weighted by its (constant) probability.
    logits = torch.tensor([0.3, -0.2, 1.1, 0.0], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([0.1, 0.4, -0.3, 0.2], dtype=torch.float64).log_softmax(0)
    policy = logits.log_softmax(0)
    mask = torch.ones(1, 4, dtype=torch.bool)
    true_kl = (policy.exp() * (policy - reference)).sum()
    (expected,) = torch.autograd.grad(true_kl, logits, retain_graph=True)
    gradients = {}
    for name in ESTIMATORS:
        terms = token_kl(policy[None], reference[None], mask, estimator=name)[0]
        assert name == "k2" or (policy.exp() * terms).sum().item() == pytest.approx(true_kl.item())
        (gradients[name],) = torch.autograd.grad((policy.detach().exp() * terms).sum(), logits, retain_graph=True)
    torch.testing.assert_close(gradients["k2"], expected)
    torch.testing.assert_close(gradients["k1"], torch.zeros(4, dtype=torch.float64))
