"""Learning rate by train step."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oprime.core.schedule import LearningRates


def rate(step: int, **changes: Any) -> float:
    options: dict[str, Any] = {"peak": 2.0, "schedule": "constant", "warmup_steps": 0, "total_steps": 10, "min_ratio": 0.0}
    return LearningRates(**(options | changes)).at(step)


def test_warm_up_grows_to_the_peak() -> None:
    assert [rate(step, warmup_steps=4) for step in (1, 2, 3, 4, 5, 10)] == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]


def test_linear_falls_by_equal_amounts() -> None:
    assert [rate(step, schedule="linear") for step in (1, 2, 6, 10, 11, 99)] == pytest.approx([2.0, 1.8, 1.0, 0.2, 0.0, 0.0])


def test_cosine_is_halfway_in_the_middle_and_stays_above_its_floor() -> None:
    rates = [rate(step, schedule="cosine", min_ratio=0.1) for step in (1, 6, 11, 99)]
    assert rates == pytest.approx([2.0, 1.1, 0.2, 0.2])


def test_decay_begins_after_warm_up() -> None:
    rates = [rate(step, schedule="linear", warmup_steps=2, min_ratio=0.5) for step in (1, 2, 3, 7, 11)]
    assert rates == pytest.approx([1.0, 2.0, 2.0, 1.5, 1.0])


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_warm_up_may_be_longer_than_the_run(schedule: str) -> None:
    assert rate(10, schedule=schedule, warmup_steps=20) == 1.0
    assert rate(20, schedule=schedule, warmup_steps=20) == 2.0


def test_steps_count_from_one() -> None:
    with pytest.raises(ValueError, match=r"step \(0\) must be positive"):
        rate(0)


@settings(max_examples=60)
@given(st.sampled_from(["constant", "linear", "cosine"]), st.integers(0, 12), st.integers(1, 30), st.floats(0, 1))
def test_the_rate_rises_then_never_rises_again(schedule: str, warmup: int, total: int, floor: float) -> None:
    rates = [rate(step, schedule=schedule, warmup_steps=warmup, total_steps=total, min_ratio=floor) for step in range(1, total + 15)]
    assert all(0 < value <= 2.0 + 1e-9 for value in rates[: min(warmup + 1, total)])
    after = rates[warmup:]
    assert all(later <= earlier + 1e-9 for earlier, later in pairwise(after))
    assert all(value >= 2.0 * floor - 1e-9 for value in after)
