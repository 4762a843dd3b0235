"""Staleness and admission."""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oprime.core.staleness import (
    admissible_groups,
    expected_step,
    last_usable_step,
    min_weight_version,
    rollout_staleness,
    usable,
)

RATES = st.one_of(st.just(1.0), st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.9]), st.floats(1e-6, 1, exclude_min=True))


def admit(committed: int, next_step: int, staleness: int, **changes: Any) -> int:
    options: dict[str, Any] = {"groups_per_batch": 8, "ready_groups": 0, "live_groups": 0, "acceptance": 1.0}
    return admissible_groups(committed, next_step=next_step, max_staleness=staleness, **(options | changes))


def test_staleness_counts_versions_between_the_weights_of_the_step_and_of_the_rollout() -> None:
    # Step 5 starts from version 4.
    assert rollout_staleness(5, 4) == 0
    assert rollout_staleness(5, 2) == 2
    assert usable(5, 2, 2)
    assert not usable(5, 2, 1)
    assert last_usable_step(2, 1) == 4


def test_the_oldest_allowed_version_is_never_below_the_first() -> None:
    assert min_weight_version(5, 1) == 3
    assert min_weight_version(5, 0) == 4
    assert min_weight_version(1, 3) == 0


@settings(max_examples=60)
@given(st.integers(1, 100), st.integers(0, 100), st.integers(0, 5))
def test_the_three_forms_of_the_bound_agree(step: int, version: int, bound: int) -> None:
    assert usable(step, version, bound) == (step <= last_usable_step(version, bound)) == (version >= min_weight_version(step, bound))


def test_synchronous_admission_fills_the_one_next_batch() -> None:
    assert admit(0, 1, 0) == 8
    assert admit(0, 1, 0, ready_groups=3, live_groups=4) == 1
    assert admit(0, 1, 0, ready_groups=3, live_groups=5) == 0
    assert admit(0, 1, 0, ready_groups=1, acceptance=0.7) == 10  # 7 places at 70 %
    assert admit(0, 1, 0, ready_groups=1, live_groups=4, acceptance=0.5) == 10  # 14 - 4
    assert admit(3, 5, 0) == 0  # batch 4 is not committed
    assert admit(4, 5, 0) == 8


def test_staleness_admits_that_many_more_batches() -> None:
    assert admit(0, 1, 2) == 24
    assert admit(0, 2, 2) == 16
    assert admit(0, 3, 2) == 8
    assert admit(0, 4, 2) == 0
    assert admit(1, 4, 2) == 8
    assert admit(0, 1, 2, ready_groups=30) == 0


def test_expected_step_of_a_new_group() -> None:
    counts = {"groups_per_batch": 8, "acceptance": 0.5}
    assert expected_step(3, ready_groups=0, live_groups=0, **counts) == 3
    assert expected_step(3, ready_groups=7, live_groups=1, **counts) == 3  # 7.5 places taken
    assert expected_step(3, ready_groups=7, live_groups=2, **counts) == 4  # 8 places taken
    assert expected_step(3, ready_groups=8, live_groups=16, **counts) == 5


@settings(max_examples=150)
@given(st.integers(0, 20), st.integers(0, 4), st.integers(0, 4), st.integers(1, 12), st.integers(0, 40), st.integers(0, 40), RATES)
def test_exactly_the_admitted_groups_are_expected_within_the_bound(
    committed: int, cut: int, bound: int, size: int, ready: int, live: int, rate: float
) -> None:
    next_step = committed + 1 + cut
    counts: dict[str, Any] = {"groups_per_batch": size, "ready_groups": ready, "acceptance": rate}
    admitted = admit(committed, next_step, bound, live_groups=live, **counts)

    def fits(more: int) -> bool:
        step = expected_step(next_step, live_groups=live + more, **counts)
        return usable(step, committed, bound) and min_weight_version(step, bound) <= committed

    assert admitted >= 0
    assert admitted == 0 or fits(admitted - 1)
    assert not fits(admitted)


@settings(max_examples=60)
@given(st.integers(0, 20), st.integers(0, 4), st.data(), st.integers(1, 12), RATES)
def test_with_nothing_live_and_room_in_the_batch_something_is_admitted(
    committed: int, bound: int, data: st.DataObject, size: int, rate: float
) -> None:
    cut = data.draw(st.integers(0, bound))
    ready = data.draw(st.integers(0, size - 1))
    assert admit(committed, committed + 1 + cut, bound, groups_per_batch=size, ready_groups=ready, acceptance=rate) > 0


@settings(max_examples=25)
@given(st.integers(0, 3), st.integers(1, 5), st.integers(0, 10**6))
def test_no_group_becomes_too_stale_when_all_pass_and_keep_their_order(bound: int, size: int, seed: int) -> None:
    """A run of single events in random order: issue, decide the oldest, cut, commit. It must never stall either."""
    chance = random.Random(seed)
    committed, next_step = 0, 1
    live: list[int] = []
    ready: list[int] = []  # the weight version of each group when it was issued
    for _ in range(150):
        allowed = admit(committed, next_step, bound, groups_per_batch=size, ready_groups=len(ready), live_groups=len(live))
        possible = {"issue": allowed > 0, "decide": bool(live), "cut": len(ready) >= size, "commit": committed < next_step - 1}
        assert any(possible.values())
        event = chance.choice([name for name, is_possible in possible.items() if is_possible])
        if event == "issue":
            live.append(committed)
        elif event == "decide":
            ready.append(live.pop(0))
        elif event == "cut":
            assert rollout_staleness(next_step, min(ready[:size])) <= bound
            ready, next_step = ready[size:], next_step + 1
        else:
            committed += 1
    assert committed > 0


@pytest.mark.parametrize("acceptance", [0.0, -0.1, 1.1, float("nan")])
def test_an_impossible_rate_is_refused(acceptance: float) -> None:
    with pytest.raises(ValueError, match=r"acceptance \(.*\) must be above 0 and at most 1"):
        admit(0, 1, 1, acceptance=acceptance)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups_per_batch": 0}, r"groups_per_batch \(0\) must be positive"),
        ({"ready_groups": -1}, r"ready_groups \(-1\)"),
        ({"live_groups": -2}, r"live_groups \(-2\)"),
        ({"committed": 3}, r"committed_step \(3\) must be below next_step \(1\)"),
        ({"staleness": -1}, r"max_staleness \(-1\) must not be negative"),
    ],
)
def test_counts_that_cannot_be_are_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        admit(**({"committed": 0, "next_step": 1, "staleness": 1} | changes))
