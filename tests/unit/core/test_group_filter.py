"""The online prompt filter."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oprime.core.group_filter import ACCURACY_HIGH, ACCURACY_LOW, TRUNCATED, filter_reason


def reason(*outcomes: float, truncated: bool = False, drop_truncated: bool = True) -> str | None:
    return filter_reason(outcomes, truncated, low=0.2, high=0.8, drop_truncated=drop_truncated)


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


def test_a_group_without_rollouts_is_refused() -> None:
    with pytest.raises(ValueError, match="a group without rollouts"):
        reason()


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=8), st.data())
def test_the_order_of_rollouts_does_not_matter(outcomes: list[float], data: st.DataObject) -> None:
    assert reason(*data.draw(st.permutations(outcomes))) == reason(*outcomes)
