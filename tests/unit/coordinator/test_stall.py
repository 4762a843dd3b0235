"""A run that stands still says who waits for what."""

import pytest

from oprime_coordinator.bottleneck import Replica
from oprime_coordinator.stall import Situation, StallWatch, stalled


def replica(age_s: float, **report: object) -> Replica:
    return Replica(report=report, age_s=age_s)


def said(**known: object) -> str:
    text = stalled(62.4, Situation(limit_s=60, silent_s=10, **known))  # pyright: ignore[reportArgumentType]
    head = "nothing has moved for 62 s (coordinator.stall_s = 60): "
    assert text.startswith(head)
    return text.removeprefix(head)


def test_nothing_is_said_before_the_limit() -> None:
    assert stalled(59.9, Situation(limit_s=60, silent_s=10, open_groups=3)) == ""


def test_a_stage_that_stopped_is_named_with_its_work_and_those_who_wait_for_it() -> None:
    text = said(replicas={"generator/a": replica(61.0)}, work={"generator": 3}, open_groups=12)
    assert text == "3 tickets are with generator/a: no report for 61 s; 12 groups wait for the rest of their rollouts"


def test_a_stage_that_never_came_is_named() -> None:
    assert (
        said(work={"generator": 1}, open_groups=1)
        == "1 ticket is with the generator: no report yet; 1 group waits for the rest of its rollouts"
    )


def test_a_stage_that_hangs_but_reports_is_named_with_what_it_says() -> None:
    replicas = {"generator/a": replica(1.0, running_rollouts=16), "generator/b": replica(40.0, running_rollouts=4)}
    assert said(replicas=replicas, work={"generator": 2}) == (
        "2 tickets are with the generator, which reports (16 rollouts under way); generator/b: no report for 40 s"
    )


def test_a_replica_that_says_why_it_cannot_go_on_is_quoted() -> None:
    replicas = {"verifier/a": replica(1.0, outage="judge.example:9000 refuses connections", held_rollouts=12)}
    assert said(replicas=replicas, work={"verifier": 12}) == (
        "verifier/a: judge.example:9000 refuses connections; 12 rollouts are with the verifier, which reports (12 rollouts held back)"
    )
    assert said(replicas={"generator/a": replica(1.0, follow_error="version 3 is damaged")}).startswith("generator/a: version 3 is damaged")


def test_trainers_and_a_batch_that_does_not_fill_are_named() -> None:
    replicas = {"prm/0": replica(1.0), "learner/0": replica(99.0)}
    assert said(replicas=replicas, work={"prm": 0, "learner": 2}, ready_groups=3, groups_per_batch=8) == (
        "2 batches are with learner/0: no report for 99 s; 3 of the 8 groups of the next batch are ready"
    )


def test_a_queue_that_does_not_work_is_the_only_reason() -> None:
    error = "Redis at localhost:6379 cannot store more"
    assert said(queue_error=error, replicas={"generator/a": replica(61.0)}, work={"generator": 3}, open_groups=9) == error


def test_an_evaluation_is_a_reason_of_its_own() -> None:
    assert said(evaluation="waiting until it can be evaluated: UNAVAILABLE") == "waiting until it can be evaluated: UNAVAILABLE"


def test_without_any_reason_the_log_is_named() -> None:
    assert "the coordinator's log says more" in said()


def test_time_counts_from_the_last_movement_and_a_standstill_is_reported_once_per_limit() -> None:
    watch = StallWatch(60)
    assert watch.quiet_s(0, "a") == 0
    assert watch.quiet_s(50, "a") == 50
    assert watch.quiet_s(70, "b") == 0
    assert watch.quiet_s(130, "b") == 60
    assert [now for now in range(130, 270, 10) if watch.is_due(now)] == [130, 190, 250]
    watch.quiet_s(255, "c")
    watch.quiet_s(257, "c")
    assert watch.is_due(257)


@pytest.mark.parametrize("limit_s", [0.5, 1800.0])
def test_the_limit_is_shown_as_it_was_written(limit_s: float) -> None:
    assert f"(coordinator.stall_s = {limit_s:g})" in stalled(2000, Situation(limit_s=limit_s, silent_s=10))
