"""PPO's advantages and value loss."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from golden import slow_reference as slow
from oprime.core.advantage import Choices, Estimate, Rewards
from oprime.core.critic import explained_variance, value_loss
from oprime.core.estimators.ppo import ppo, token_rewards
from oprime.core.masked import masked_whiten
from oprime.core.token_rows import response_matrix
from random_batches import Case, cases
from rollouts import moments_of

close = torch.testing.assert_close

LENGTHS = [4, 2, 3, 5]
IS_RESPONSE = torch.tensor([[False] + [token < length for token in range(6)] for length in LENGTHS])
OUTCOMES = torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
VALUES = [[0.5, 0.4, 0.6, 0.8], [0.3, 0.2], [0.5, 0.5, 0.5], [0.4, 0.3, 0.3, 0.2, 0.1]]
WHITENED = [
    [1.035454, 1.294317, 0.77659, 0.258863],
    [-1.035454, -0.776591],
    [1.035454, 1.035454, 1.035454],
    [-1.294317, -1.035454, -1.035454, -0.776591, -0.517727],
]


def matrix(rows: list[list[float]]) -> torch.Tensor:
    return response_matrix(rows, IS_RESPONSE, dtype=torch.float64)


def earned(process: torch.Tensor, outcome: torch.Tensor, is_trained: torch.Tensor, values: torch.Tensor | None = None) -> Rewards:
    ids = torch.zeros(len(outcome), dtype=torch.int64)
    return Rewards(process=process, rewarded=is_trained, outcome=outcome, is_trained=is_trained, group_ids=ids, values=values)


def estimated(rewards: Rewards, *, discount: float, trace_decay: float, weights: tuple[float, float] = (1.0, 1.0)) -> Estimate:
    choices = Choices(process_weight=weights[0], outcome_weight=weights[1], process_discount=discount, outcome_discount=discount)
    return ppo(rewards, choices, trace_decay=trace_decay)


def test_with_discount_and_decay_1_the_advantage_is_outcome_less_value() -> None:
    nothing = torch.zeros_like(matrix(VALUES))
    result = estimated(earned(nothing, OUTCOMES, IS_RESPONSE, matrix(VALUES)), discount=1.0, trace_decay=1.0)
    close(result.advantages, (OUTCOMES[:, None] - matrix(VALUES)).where(IS_RESPONSE, 0.0))
    close(result.value_targets, OUTCOMES[:, None].expand(-1, 7).where(IS_RESPONSE, 0.0))
    white = masked_whiten(result.advantages, IS_RESPONSE, moments_of(result.advantages, IS_RESPONSE))
    close(white, matrix(WHITENED), atol=1e-6, rtol=0)


def test_values_on_padding_do_not_leak_into_the_last_token() -> None:
    # One token of reward 1 and value 0.25, then padding with a value of 100: delta = 1 + 0 - 0.25.
    is_trained = torch.tensor([[True, False]])
    rewards = earned(torch.tensor([[1.0, 0.0]]), torch.zeros(1), is_trained, torch.tensor([[0.25, 100.0]]))
    assert estimated(rewards, discount=1.0, trace_decay=0.9).advantages.tolist() == [[0.75, 0.0]]


def test_process_rewards_are_added_to_the_outcome_at_the_last_token() -> None:
    process = torch.tensor([[0.0, 1.0, 2.0, math.nan]])
    rewards = earned(process, torch.tensor([1.0]), torch.tensor([[False, True, True, False]]))
    assert token_rewards(rewards, Choices(process_weight=0.5, outcome_weight=3.0)).tolist() == [[0.0, 0.5, 4.0, 0.0]]


@settings(max_examples=60)
@given(
    case=cases(numbers=2),
    discount=st.sampled_from([0.0, 0.9, 1.0]),
    trace_decay=st.sampled_from([0.0, 0.5, 1.0]),
    weights=st.sampled_from([(0.0, 1.0), (1.0, 1.0), (2.0, 0.5)]),
)
def test_gae_equals_its_slow_implementation(case: Case, discount: float, trace_decay: float, weights: tuple[float, float]) -> None:
    process, values = (case.matrix(rows) for rows in case.numbers)
    rewards = earned(process, case.outcome_rewards, case.is_trained, values)
    result = estimated(rewards, discount=discount, trace_decay=trace_decay, weights=weights)
    assert result.value_targets is not None
    ours, targets = case.rows_of(result.advantages), case.rows_of(result.value_targets)
    for i, (row, value) in enumerate(zip(*case.numbers, strict=True)):
        expected_rewards = [weights[0] * reward for reward in row]
        expected_rewards[-1] += weights[1] * case.outcomes[i]
        expected = slow.gae(expected_rewards, value, discount, trace_decay)
        assert ours[i] == pytest.approx(expected, abs=1e-9)
        assert targets[i] == pytest.approx([a + v for a, v in zip(expected, value, strict=True)], abs=1e-9)


@pytest.mark.parametrize("clip", [None, 0.2])
@settings(max_examples=40)
@given(case=cases(numbers=3))
def test_the_value_loss_equals_its_slow_implementation(clip: float | None, case: Case) -> None:
    values, before, targets = (case.matrix(rows) for rows in case.numbers)
    shares = case.is_trained.double() / sum(case.lengths)
    result = value_loss(values, before, targets, case.is_trained, shares, clip=clip)
    terms = [
        slow.value_loss(token[0], token[1], token[2], clip) for rows in zip(*case.numbers, strict=True) for token in zip(*rows, strict=True)
    ]
    assert result.loss.item() == pytest.approx(sum(terms) / len(terms), abs=1e-9)


def test_the_value_clip_keeps_the_larger_error() -> None:
    # The value rose from 0 to 1 and hit its target; clipped at 0.2 it would be 0.8 away: loss 0.32, and no gradient.
    value = torch.tensor([[1.0]], dtype=torch.float64, requires_grad=True)
    one, zero, mask = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.bool)
    result = value_loss(value, zero, one, mask, one, clip=0.2)
    result.loss.backward()
    assert result.loss.item() == pytest.approx(0.32)
    assert (result.clipped_tokens, value.grad) == (1, torch.zeros(1, 1))


def test_the_value_loss_has_the_gradient_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    values, before, targets = (torch.randn(4, 7, dtype=torch.float64, generator=generator) for _ in range(3))
    shares = IS_RESPONSE.double() / 14
    for clip in (None, 0.3):
        assert torch.autograd.gradcheck(
            lambda value, clip=clip: value_loss(value, before, targets, IS_RESPONSE, shares, clip=clip).loss, values.requires_grad_()
        )


def test_explained_variance() -> None:
    targets, mask = torch.tensor([[1.0, 2.0, 3.0]]), torch.ones(1, 3, dtype=torch.bool)
    assert explained_variance(targets, targets, mask) == pytest.approx(1.0)
    assert explained_variance(torch.full_like(targets, 5.0), targets, mask) == pytest.approx(0.0)
    assert math.isnan(explained_variance(targets, torch.ones(1, 3), mask))
