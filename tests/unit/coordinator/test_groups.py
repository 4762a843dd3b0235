"""Completing groups and deciding what becomes of them."""

from dataclasses import replace

import pytest

from oprime.core.types import DroppedRollout, FinishReason, VerifiedGroup
from oprime.ports import Delivery
from oprime_coordinator.config import FilterSection
from oprime_coordinator.groups import OpenGroup, refusal
from tiny_models import verified_rollout

DELIVERY = Delivery(stream="verdicts", entry="1-0", key="7:0", payload=b"", attempt=1)


def group_of(*scores: float) -> VerifiedGroup:
    return VerifiedGroup(group_id=7, rollouts=tuple(verified_rollout(7, index, score, [9]) for index, score in enumerate(scores)))


def refused(group: VerifiedGroup, settings: FilterSection) -> str | None:
    return refusal(group, settings, needs_siblings=True)


def test_a_group_is_complete_when_every_rollout_is_verified_or_lost() -> None:
    group = OpenGroup(7, 3)
    group.add(verified_rollout(7, 2, 1.0, [9]), DELIVERY)
    group.add(DroppedRollout(group_id=7, index=0, reason="verifier_error"), DELIVERY)
    assert not group.complete
    group.lost.add(1)
    assert group.complete
    assert [one.rollout.index for one in group.group().rollouts] == [2]


def test_a_group_that_its_generator_gave_up_is_known_as_stale() -> None:
    group, failed = OpenGroup(7, 2), OpenGroup(8, 1)
    for index in range(2):
        group.add(DroppedRollout(group_id=7, index=index, reason="stale", response_tokens=5), DELIVERY)
    failed.add(DroppedRollout(group_id=8, index=0, reason="undecided"), DELIVERY)
    assert (group.stale, failed.stale) == (True, False)


def test_rollouts_are_ordered_by_index_whatever_their_order_of_arrival() -> None:
    group = OpenGroup(7, 3)
    for index in (2, 0, 1):
        group.add(verified_rollout(7, index, 1.0, [9]), DELIVERY)
    assert [one.rollout.index for one in group.group().rollouts] == [0, 1, 2]


def test_the_filter_keeps_what_is_neither_too_easy_nor_too_hard() -> None:
    settings = FilterSection(low=0.2, high=0.8)
    assert refused(group_of(1, 0, 0, 0), settings) is None
    assert refused(group_of(0, 0, 0, 0), settings) == "filtered:accuracy_low"
    assert refused(group_of(1, 1, 1, 1), settings) == "filtered:accuracy_high"


def test_equal_and_long_responses_are_left_out_if_asked_for() -> None:
    assert refused(group_of(0.5, 0.5), FilterSection(drop_zero_variance=True)) == "filtered:zero_variance"
    long = VerifiedGroup(group_id=7, rollouts=(verified_rollout(7, 0, 1.0, [9, 9, 9]), verified_rollout(7, 1, 0.0, [9])))
    assert refused(long, FilterSection(longest_response_tokens=2)) == "filtered:over_length"
    assert refused(long, FilterSection(longest_response_tokens=3)) is None


def test_without_the_filter_every_group_with_siblings_is_kept() -> None:
    assert refused(group_of(1, 1, 1, 1), FilterSection(enabled=False)) is None


def test_a_rollout_that_lost_its_siblings_has_nothing_to_be_compared_with() -> None:
    assert refused(group_of(1), FilterSection(enabled=False)) == "dropped:siblings_lost"


def test_without_a_baseline_from_siblings_a_single_rollout_is_enough() -> None:
    assert refusal(group_of(1), FilterSection(enabled=False), needs_siblings=False) is None
    assert refusal(group_of(), FilterSection(enabled=False), needs_siblings=False) == "dropped:siblings_lost"


def compared_group(*scores: float, baseline: float | None) -> VerifiedGroup:
    """A group of these outcomes beside a greedy baseline; its response is long, and was cut."""
    greedy = None if baseline is None else verified_rollout(7, len(scores), baseline, [9] * 50)
    cut = greedy and replace(greedy, rollout=replace(greedy.rollout, finish_reason=FinishReason.LENGTH))
    return replace(group_of(*scores), baseline=cut)


def test_the_last_rollout_of_a_group_that_has_one_is_its_greedy_baseline() -> None:
    group = OpenGroup(7, 3, has_baseline=True)
    for index in (2, 0):
        group.add(verified_rollout(7, index, 1.0, [9]), DELIVERY)
    assert not group.complete
    group.add(verified_rollout(7, 1, 1.0, [9]), DELIVERY)
    assert group.complete
    completed = group.group()
    assert [one.rollout.index for one in completed.rollouts] == [0, 1]
    assert completed.baseline is not None
    assert completed.baseline.rollout.index == 2
    assert [one.rollout.index for one in completed.issued] == [0, 1, 2]


def test_a_group_whose_baseline_has_no_score_is_dropped_for_that() -> None:
    group = OpenGroup(7, 3, has_baseline=True)
    for index in (0, 1):
        group.add(verified_rollout(7, index, float(index), [9]), DELIVERY)
    group.add(DroppedRollout(group_id=7, index=2, reason="undecided"), DELIVERY)
    assert group.complete
    assert refusal(group.group(), FilterSection(), needs_siblings=False, needs_baseline=True) == "dropped:baseline_lost"


def test_a_group_of_which_only_the_baseline_is_left_has_nothing_to_train_on() -> None:
    group = OpenGroup(7, 2, has_baseline=True)
    group.add(DroppedRollout(group_id=7, index=0, reason="undecided"), DELIVERY)
    group.add(verified_rollout(7, 1, 1.0, [9]), DELIVERY)
    assert refusal(group.group(), FilterSection(), needs_siblings=False, needs_baseline=True) == "dropped:siblings_lost"


@pytest.mark.parametrize("scores", [(1, 0, 0, 0), (1, 1, 1, 0), (0.5, 0.5, 0.5, 0.5), (1, 1, 1, 1), (0, 0, 0, 0)])
@pytest.mark.parametrize("baseline", [0.0, 1.0])
def test_the_filter_does_not_see_the_baseline(scores: tuple[float, ...], baseline: float) -> None:
    settings = FilterSection(low=0.25, high=0.75, drop_zero_variance=True, longest_response_tokens=10)
    with_baseline = compared_group(*scores, baseline=baseline)
    assert refusal(with_baseline, settings, needs_siblings=False, needs_baseline=True) == refused(group_of(*scores), settings)


def test_a_group_is_as_old_as_its_oldest_token_the_baselines_included() -> None:
    rollouts = tuple(verified_rollout(7, index, 1.0, [9], version=4) for index in range(2))
    group = VerifiedGroup(group_id=7, rollouts=rollouts, baseline=verified_rollout(7, 2, 1.0, [9], version=3))
    assert group.oldest_weight_version == 3
