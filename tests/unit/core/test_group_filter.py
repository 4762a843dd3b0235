"""The online prompt filter."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oprime.core.group_filter import ACCURACY_HIGH, ACCURACY_LOW, OVER_LENGTH, TRUNCATED, ZERO_VARIANCE, FilterRules, filter_reason


def reason(*outcomes: float, truncated: bool = False, drop_truncated: bool = True) -> str | None:
    rules = FilterRules(low=0.2, high=0.8, drop_truncated=drop_truncated)
    return filter_reason(outcomes, [5] * len(outcomes), any_truncated=truncated, rules=rules)


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ((1, 0, 0, 0), None),
        ((1, 1, 1, 0), None),
        ((0, 0, 0, 0), ACCURACY_LOW),
        ((1, 1, 1, 1), ACCURACY_HIGH),
        ((0.5, 0.1, 0.1, 0.1), None),  # the mean is exactly 0.2, but 0.19999999999999998 in floating point
        ((0.9, 0.9, 0.7, 0.7), None),
        ((0.19, 0.2), ACCURACY_LOW),
        ((0.81, 0.8), ACCURACY_HIGH),
    ],
)
def test_groups_of_medium_difficulty_are_kept(outcomes: tuple[float, ...], expected: str | None) -> None:
    assert reason(*(float(outcome) for outcome in outcomes)) == expected


def test_a_truncated_group_is_left_out_if_asked_for() -> None:
    assert reason(1.0, 0.0, truncated=True) == TRUNCATED
    assert reason(1.0, 0.0, truncated=True, drop_truncated=False) is None
    assert reason(1.0, 1.0, truncated=True, drop_truncated=False) == ACCURACY_HIGH
    assert reason(1.0, 1.0, truncated=True) == TRUNCATED


@pytest.mark.parametrize(
    ("outcomes", "expected"), [([0.5, 0.5], ZERO_VARIANCE), ([0.1 + 0.2, 0.3], ZERO_VARIANCE), ([0.5, 0.6], None), ([0.3], ZERO_VARIANCE)]
)
def test_a_group_of_equal_outcomes_is_left_out_if_asked_for(outcomes: list[float], expected: str | None) -> None:
    lengths = [1] * len(outcomes)
    assert filter_reason(outcomes, lengths, any_truncated=False, rules=FilterRules(drop_zero_variance=True)) == expected
    assert filter_reason(outcomes, lengths, any_truncated=False, rules=FilterRules()) is None


def test_a_group_with_one_response_over_length_is_left_out() -> None:
    rules = FilterRules(longest_response=8)
    assert filter_reason([1.0, 0.0], [8, 3], any_truncated=False, rules=rules) is None
    assert filter_reason([1.0, 0.0], [3, 9], any_truncated=False, rules=rules) == OVER_LENGTH


def test_the_first_rule_that_fails_is_the_reason() -> None:
    rules = FilterRules(low=0.2, high=0.8, drop_truncated=True, drop_zero_variance=True, longest_response=8)
    assert filter_reason([0.0, 0.0], [9, 9], any_truncated=True, rules=rules) == TRUNCATED
    assert filter_reason([0.0, 0.0], [9, 9], any_truncated=False, rules=rules) == OVER_LENGTH
    assert filter_reason([0.0, 0.0], [2, 2], any_truncated=False, rules=rules) == ACCURACY_LOW


def test_a_group_without_rollouts_is_refused() -> None:
    with pytest.raises(ValueError, match="a group without rollouts"):
        reason()


@settings(max_examples=60)
@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=8), st.data())
def test_the_order_of_rollouts_does_not_matter(outcomes: list[float], data: st.DataObject) -> None:
    assert reason(*data.draw(st.permutations(outcomes))) == reason(*outcomes)
