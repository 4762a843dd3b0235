"""avg, pass@k, maj@k and their intervals, by hand."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oprime.core.sample_statistics import estimate, majority_at_k, paired_difference, pass_at_k


def test_pass_at_k_is_the_share_of_choices_with_a_right_sample() -> None:
    # Of the six pairs of four samples, two of them right, one has no right one.
    assert pass_at_k(4, 2, 2) == pytest.approx(5 / 6)
    assert [pass_at_k(4, 1, k) for k in (1, 2, 3, 4)] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert (pass_at_k(3, 0, 2), pass_at_k(3, 3, 1)) == (0.0, 1.0)


@given(st.lists(st.booleans(), min_size=1, max_size=7), st.data())
def test_pass_at_k_counts_every_choice_of_k(right: list[bool], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(right)))
    choices = list(combinations(right, k))
    assert pass_at_k(len(right), sum(right), k) == pytest.approx(sum(map(any, choices)) / len(choices))


def test_pass_at_k_needs_k_samples() -> None:
    with pytest.raises(ValueError, match="k must be from 1"):
        pass_at_k(3, 1, 4)
    with pytest.raises(ValueError, match="k must be from 1"):
        pass_at_k(3, 1, 0)


def test_the_majority_of_each_run_of_k_counts() -> None:
    # Of samples 0 to 2, answer 7 has two votes and is wrong; of samples 3 to 5, answer 8 has all and is right.
    assert majority_at_k([7, 7, 8, 8, 8, 8], [0.0, 0.0, 1.0, 1.0, 1.0, 1.0], 3) == 0.5
    # What is left over is no run of three.
    assert majority_at_k([7, 7, 8, 8], [0.0, 0.0, 1.0, 1.0], 3) == 0.0


def test_the_earliest_answer_wins_a_tie_and_silence_never_wins() -> None:
    assert majority_at_k([1, 2], [1.0, 0.0], 2) == 1.0
    assert majority_at_k([None, None, 4], [0.0, 0.0, 1.0], 3) == 1.0
    assert majority_at_k([None, None], [0.0, 0.0], 2) == 0.0


def test_an_interval_holds_the_mean_and_follows_from_the_seed() -> None:
    found = estimate([1.0] * 30 + [0.0] * 70)
    # The standard deviation of the mean is sqrt(.3 * .7 / 100) = .046: two of them on each side.
    assert found.value == pytest.approx(0.3)
    assert found.low == pytest.approx(0.21, abs=0.015)
    assert found.high == pytest.approx(0.39, abs=0.015)
    assert estimate([1.0] * 30 + [0.0] * 70) == found
    assert estimate([0.5]) == estimate([0.5], seed=3)


def test_without_a_problem_there_is_no_mean() -> None:
    with pytest.raises(ValueError, match="no problem"):
        estimate([])


def test_a_paired_difference_is_surer_than_two_means() -> None:
    # The second model solves the same 50 of 100 problems, and two more.
    first, second = [1.0] * 50 + [0.0] * 50, [1.0] * 52 + [0.0] * 48
    paired = paired_difference(first, second)
    assert paired.value == pytest.approx(0.02)
    assert paired.high - paired.low < 0.07
    alone = estimate(second)
    assert alone.high - alone.low > 0.15
    with pytest.raises(ValueError, match="the same ones"):
        paired_difference([1.0], [1.0, 0.0])
