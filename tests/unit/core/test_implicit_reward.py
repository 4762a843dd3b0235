"""Implicit process rewards and their normalisation."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from golden import slow_reference as slow
from oprime.core.batching import chunk_of_each
from oprime.core.implicit_reward import (
    chunk_scales,
    largest_returns,
    normalisation_scale,
    printed_rewards,
    sequence_process_rewards,
    sequence_scores,
    token_process_rewards,
)
from oprime.core.token_rows import ragged, response_matrix
from random_batches import Case, cases

close = torch.testing.assert_close

# Four responses to one prompt; the log-ratio (nats) of each token.
LOG_RATIOS = [[1, 0.5, -0.5, 2], [-1, 0], [0.5, 0.5, 0], [0.2, -0.4, 0.6, -0.8, -0.2]]
IS_RESPONSE = torch.tensor([[False] + [token < len(row) for token in range(6)] for row in LOG_RATIOS])
Q = response_matrix(LOG_RATIOS, IS_RESPONSE, dtype=torch.float64)


def of_batch(rewards: Tensor, is_trained: Tensor, *, floor: float) -> Tensor:
    return rewards.where(is_trained, 0.0) / normalisation_scale(largest_returns(rewards, is_trained), floor=floor)


def of_chunks(rewards: Tensor, is_trained: Tensor, chunk_ids: Tensor) -> Tensor:
    return rewards.where(is_trained, 0.0) / chunk_scales(largest_returns(rewards, is_trained), chunk_ids, floor=1e-3)[:, None]


def flat(values: Tensor, is_trained: Tensor = IS_RESPONSE) -> list[list[float]]:
    return [row.tolist() for row in ragged(values, is_trained)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_reward_is_beta_times_the_log_ratio_on_every_response_token(dtype: torch.dtype) -> None:
    prm = torch.tensor([[-9.0, -1.0, -2.0, math.nan]], dtype=dtype)
    reference = torch.tensor([[-1.0, -3.0, -1.0, -math.inf]], dtype=dtype)
    is_trained = torch.tensor([[False, True, True, False]])
    close(token_process_rewards(prm, reference, is_trained, 0.05), torch.tensor([[0.0, 0.1, -0.05, 0.0]], dtype=dtype))


def test_what_is_outside_the_response_sends_no_gradient() -> None:
    prm = torch.tensor([[-math.inf, -1.0, -math.inf]], requires_grad=True)
    rewards = token_process_rewards(prm, torch.tensor([[-math.inf, -2.0, -1.0]]), torch.tensor([[False, True, False]]), 0.5)
    rewards.sum().backward()
    assert prm.grad is not None
    assert prm.grad.tolist() == [[0.0, 0.5, 0.0]]


def test_the_score_of_a_response_is_the_sum_of_its_rewards() -> None:
    rewards = token_process_rewards(Q, torch.zeros_like(Q), IS_RESPONSE, 0.05)
    close(sequence_scores(rewards, IS_RESPONSE), torch.tensor([0.15, -0.05, 0.05, -0.03], dtype=torch.float64), atol=1e-6, rtol=0)


def test_what_stands_between_trained_tokens_has_no_reward_and_no_part_in_score_or_return() -> None:
    # Two turns: 2, then -3 and 0.5; NaN is what a tool wrote. Returns -0.5, -2.5 and 0.5; the largest is 2.5.
    log_ratios = torch.tensor([[math.nan, 2.0, math.nan, math.nan, -3.0, 0.5, math.nan]])
    is_trained = torch.tensor([[False, True, False, False, True, True, False]])
    rewards = token_process_rewards(log_ratios, torch.zeros(1, 7), is_trained, 1.0)
    assert rewards.tolist() == [[0.0, 2.0, 0.0, 0.0, -3.0, 0.5, 0.0]]
    assert sequence_scores(log_ratios, is_trained).tolist() == [-0.5]
    assert sequence_process_rewards(log_ratios, is_trained).tolist() == [[0.0] * 5 + [-0.5, 0.0]]
    assert largest_returns(log_ratios, is_trained).tolist() == [2.5]


def test_the_largest_return_bounds_every_return() -> None:
    # 1 + 0.5 - 0.5 + 2; -1 + 0; 0.5 + 0.5 + 0; -0.8 - 0.2.
    assert largest_returns(Q, IS_RESPONSE).tolist() == pytest.approx([3.0, 1.0, 1.0, 1.0])
    assert largest_returns(-Q, IS_RESPONSE).tolist() == pytest.approx([3.0, 1.0, 1.0, 1.0])


@pytest.mark.parametrize("width", [0, 4])
@pytest.mark.parametrize("count", [0, 2])
def test_without_tokens_the_largest_return_is_0_and_the_scale_1(count: int, width: int) -> None:
    nothing = largest_returns(torch.zeros(count, width), torch.zeros(count, width, dtype=torch.bool))
    assert nothing.tolist() == [0.0] * count
    assert normalisation_scale(nothing, floor=1e-3).item() == 1.0


def test_rewards_are_divided_by_the_largest_return_of_the_whole_batch() -> None:
    expected = [
        [0.333333, 0.166667, -0.166667, 0.666666],
        [-0.333333, 0.0],
        [0.166667, 0.166667, 0.0],
        [0.066667, -0.133333, 0.2, -0.266667, -0.066667],
    ]
    normalised = of_batch(Q, IS_RESPONSE, floor=1e-3)
    for row, wanted in zip(flat(normalised), expected, strict=True):
        assert row == pytest.approx(wanted, abs=1e-6)


def test_a_part_of_the_batch_on_its_own_would_get_another_scale() -> None:
    # The largest return of the last two rollouts is 1, not 3: this is why the whole batch is normalised at once.
    part = of_batch(Q[2:], IS_RESPONSE[2:], floor=1e-3)
    assert flat(part, IS_RESPONSE[2:])[0] == pytest.approx([0.5, 0.5, 0.0], abs=1e-6)
    assert flat(part, IS_RESPONSE[2:])[1] == pytest.approx([0.2, -0.4, 0.599999, -0.799999, -0.2], abs=1e-6)
    whole = of_batch(Q, IS_RESPONSE, floor=1e-3)
    close(whole[2:] * 3, part, atol=2e-6, rtol=0)


def test_per_rank_normalisation_gives_each_chunk_a_scale_of_its_own() -> None:
    # What others compute: ranks {0, 1} and {2, 3} divide by 3 and by 1, so the second rank's rewards come out three times too large.
    per_rank = of_chunks(Q, IS_RESPONSE, torch.tensor(chunk_of_each(4, 2)))
    whole = of_batch(Q, IS_RESPONSE, floor=1e-3)
    close(per_rank[:2], whole[:2])
    assert flat(per_rank)[2] == pytest.approx([0.5, 0.5, 0.0], abs=1e-6)
    assert flat(per_rank)[3] == pytest.approx([0.2, -0.4, 0.599999, -0.799999, -0.2], abs=1e-6)
    close(of_chunks(Q, IS_RESPONSE, torch.zeros(4, dtype=torch.int64)), whole)


def test_the_scale_of_a_batch_fits_other_rewards_too() -> None:
    assert normalisation_scale(largest_returns(Q, IS_RESPONSE), floor=1e-3).item() == pytest.approx(3.000001)
    assert normalisation_scale(largest_returns(Q * 1e-7, IS_RESPONSE), floor=1e-3).item() == 1.0


def test_a_reward_of_the_sequence_stands_on_its_last_token() -> None:
    assert flat(sequence_process_rewards(Q, IS_RESPONSE))[0] == [0.0, 0.0, 0.0, 3.0]
    assert flat(sequence_process_rewards(Q, IS_RESPONSE))[2] == [0.0, 0.0, 1.0]
    close(sequence_scores(sequence_process_rewards(Q, IS_RESPONSE), IS_RESPONSE), sequence_scores(Q, IS_RESPONSE))


@settings(max_examples=40)
@given(case=cases(), chunks=st.integers(1, 3))
def test_normalisation_equals_its_slow_implementation(case: Case, chunks: int) -> None:
    chunk_ids = chunk_of_each(len(case.lengths), chunks)
    ours = case.rows_of(of_chunks(case.matrix(case.numbers[0]), case.is_trained, torch.tensor(chunk_ids)))
    for chunk in set(chunk_ids):
        rows = [row for row, of in enumerate(chunk_ids) if of == chunk]
        expected = slow.normalised([case.numbers[0][row] for row in rows], 1e-3)
        for row, wanted in zip(rows, expected, strict=True):
            assert ours[row] == pytest.approx(wanted, abs=1e-9)


def test_the_order_of_rollouts_in_a_batch_does_not_change_its_scale() -> None:
    order = torch.tensor([2, 0, 3, 1])
    shuffled = of_batch(Q[order], IS_RESPONSE[order], floor=1e-3)
    close(shuffled, of_batch(Q, IS_RESPONSE, floor=1e-3)[order])


def test_below_the_floor_rounding_noise_stays_noise() -> None:
    noise = Q * 1e-7
    close(of_batch(noise, IS_RESPONSE, floor=1e-3), noise, rtol=0, atol=0)
    assert largest_returns(of_batch(noise, IS_RESPONSE, floor=1e-9), IS_RESPONSE).max().item() > 0.2


@pytest.mark.parametrize("floor", [0.0, 1e-3])
def test_rewards_of_zero_stay_zero(floor: float) -> None:
    zeros = torch.zeros(2, 3)
    close(of_batch(zeros, torch.ones(2, 3, dtype=torch.bool), floor=floor), zeros, rtol=0, atol=0)


def test_an_empty_batch_stays_empty() -> None:
    assert of_batch(torch.zeros(0, 2), torch.zeros(0, 2, dtype=torch.bool), floor=1e-3).shape == (0, 2)


@given(st.lists(st.tuples(st.floats(-40, 0, width=32), st.floats(-40, 0, width=32)), min_size=1, max_size=64), st.sampled_from([0.05, 0.3]))
def test_printed_rewards_have_one_sum_in_every_order_and_grouping(pairs: list[tuple[float, float]], beta: float) -> None:
    prm, reference = (torch.tensor(column, dtype=torch.float32) for column in zip(*pairs, strict=True))
    rewards = printed_rewards(prm, reference, beta).tolist()
    half = len(rewards) // 2
    assert sum(rewards) == math.fsum(rewards) == sum(reversed(rewards)) == sum(rewards[:half]) + sum(rewards[half:])
    for reward, ours, theirs in zip(rewards, prm.tolist(), reference.tolist(), strict=True):
        assert reward == pytest.approx(beta * (ours - theirs), abs=2**-30, rel=2**-23)
