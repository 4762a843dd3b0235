"""Who waits for whom."""

from collections.abc import Mapping

import pytest

from oprime.ports import QueueDepth
from oprime_coordinator.bottleneck import Replica, Reports, StepBusy, bottleneck, busy_shares, entries, work_of

SILENT_S = 10.0


def report(busy: float, idle: float, **more: float) -> dict[str, float]:
    return {"busy_seconds": busy, "idle_seconds": idle, **more}


def replicas(**ages: float) -> dict[str, Replica]:
    """`generator_a=3` is the replica generator/a, whose last report is 3 s old."""
    return {name.replace("_", "/"): Replica(report={}, age_s=age) for name, age in ages.items()}


ALL = {"generator_a": 1, "verifier_a": 1, "prm_0": 1, "learner_0": 1}


@pytest.mark.parametrize(
    ("ages", "work", "shares", "said"),
    [
        # The busiest stage, where everybody reports.
        (ALL, {"generator": 3}, {"generator": 0.9, "learner": 0.4}, "generator"),
        # A stage that stopped, although another is at work more.
        (ALL | {"generator_a": 12}, {"generator": 8}, {"verifier": 0.3}, "generator: no report for 12 s, 8 tickets waiting"),
        # One replica of several is enough.
        (ALL | {"generator_a": 12, "generator_b": 2}, {"generator": 8}, {"generator": 0.9}, "generator"),
        # A stage that was never there.
        ({"verifier_a": 1, "prm_0": 1, "learner_0": 1}, {"generator": 1}, {}, "generator: no report yet, 1 ticket waiting"),
        # A silent stage that has nothing to do keeps nobody waiting.
        (ALL | {"verifier_a": 60}, {"generator": 8}, {"generator": 0.9}, "generator"),
        # Two of them.
        (
            ALL | {"verifier_a": 60, "learner_0": 11},
            {"verifier": 40, "learner": 2},
            {"generator": 0.9},
            "verifier: no report for 60 s, 40 rollouts waiting; learner: no report for 11 s, 2 batches waiting",
        ),
        # Nobody is at work: who lets work lie; else nobody waits.
        (ALL, {"generator": 4, "prm": 1}, {"generator": 0.0, "prm": 0.01}, "prm: idle, 1 batch waiting"),
        (ALL, {}, {"generator": 0.0, "prm": 0.01}, ""),
        ({}, {}, {}, ""),
    ],
)
def test_the_others_wait_for(ages: Mapping[str, float], work: Mapping[str, int], shares: Mapping[str, float], said: str) -> None:
    assert bottleneck(replicas(**ages), work, shares, silent_s=SILENT_S) == said


def test_shares_are_means_over_replicas_between_two_reports() -> None:
    before = {"generator/a": report(0, 0), "generator/b": report(0, 0), "learner/0": report(5, 5)}
    after = {"generator/a": report(9, 1), "generator/b": report(5, 5), "learner/0": report(7, 13), "prm/0": report(1, 0)}
    assert busy_shares(before, after) == {"generator": pytest.approx(0.7), "learner": pytest.approx(0.2)}


def test_a_replica_that_began_anew_counts_from_its_new_beginning() -> None:
    assert busy_shares({"prm/0": report(500, 100)}, {"prm/0": report(1, 3)}) == {"prm": 0.25}


def test_what_is_on_loan_to_trainers_may_be_finished() -> None:
    depths = [
        QueueDepth(stream=stream, waiting=1, pending=5, oldest_s=0) for stream in ("tickets", "rollouts", "batches", "scored", "steps")
    ]
    assert work_of(depths, uncommitted=0) == {"generator": 6, "verifier": 6, "prm": 1, "learner": 1}
    assert work_of([], uncommitted=2) == {"generator": 0, "verifier": 0, "prm": 2, "learner": 2}


def test_without_a_prm_batches_wait_for_the_learner() -> None:
    depths = [QueueDepth(stream="batches", waiting=3, pending=5, oldest_s=0)]
    assert work_of(depths, uncommitted=2, has_prm=False) == {"generator": 0, "verifier": 0, "learner": 3}


def test_entries_are_called_by_their_names() -> None:
    assert [entries("prm", 1), entries("prm", 2), entries("learner", 3), entries("verifier", 1)] == [
        "1 batch", "2 batches", "3 batches", "1 rollout",
    ]  # fmt: skip


def test_a_report_ages_until_it_changes() -> None:
    reports = Reports(silent_s=SILENT_S)
    reports.look(100.0, {"generator/a": report(1, 1, heartbeat=5)})
    reports.look(104.0, {"generator/a": report(1, 1, heartbeat=5)})
    assert reports.replicas["generator/a"].age_s == 4
    reports.look(106.0, {"generator/a": report(1, 1, heartbeat=6)})
    assert reports.replicas["generator/a"].age_s == 0


def test_a_replica_that_is_gone_is_remembered_until_another_takes_its_place() -> None:
    reports = Reports(silent_s=SILENT_S)
    reports.look(0.0, {"generator/a": report(1, 1), "verifier/a": report(1, 1)})
    for now in range(4, 44, 4):
        reports.look(now, {"verifier/a": report(1, 1, heartbeat=now)})
    assert reports.replicas["generator/a"].age_s == 40
    assert list(reports.reporting) == ["verifier/a"]
    reports.look(44.0, {"generator/b": report(0, 1), "verifier/a": report(1, 1, heartbeat=44)})
    assert sorted(reports.replicas) == ["generator/b", "verifier/a"]


def test_while_the_queue_was_away_nobody_fell_silent() -> None:
    reports = Reports(silent_s=SILENT_S)
    reports.look(0.0, {"generator/a": report(1, 1)})
    reports.look(300.0, {"generator/a": report(1, 1)})
    assert reports.replicas["generator/a"].age_s == SILENT_S / 2
    assert list(reports.reporting) == ["generator/a"]


def test_the_shares_of_a_silent_replica_are_left_out() -> None:
    reports, busy = Reports(silent_s=SILENT_S), StepBusy()
    shares = []
    for now, seconds in ((0.0, 0), (2.0, 1), (6.0, 1), (10.0, 1), (13.0, 1)):
        reports.look(now, {"prm/0": report(seconds, seconds)})
        busy.look(reports.reporting)
        shares.append(busy.lately(reports.reporting))
    assert shares == [{}, {"prm": 0.5}, {"prm": 0.5}, {"prm": 0.5}, {}]


def test_who_waits_for_whom_is_a_matter_of_whole_steps_not_of_the_moment() -> None:
    # Steps of 13 s: 10 s of sampling, then 3 s of training. The coordinator looks every second.
    busy, sampled, trained = StepBusy(), 0, 0
    for second in range(1, 40):
        sampled, trained = (sampled + 1, trained) if (second - 1) % 13 < 10 else (sampled, trained + 1)
        reports = {"generator/a": report(sampled, second - sampled), "learner/0": report(trained, second - trained)}
        busy.look(reports)
        shares = busy.lately(reports)
        if second > 13:
            # Also in the seconds in which the learner alone is at work.
            assert bottleneck(replicas(**ALL), {}, shares, silent_s=SILENT_S) == "generator", second
        if second % 13 == 0:
            row = busy.row(reports)
            if second > 13:
                assert row == {"generator": pytest.approx(10 / 13), "learner": pytest.approx(3 / 13)}


def test_the_shares_of_a_step_cover_the_step() -> None:
    busy = StepBusy()
    for seconds in range(11):
        # At work during the first 6 of 10 s; in the last seconds idle.
        busy.look({"learner/0": report(min(seconds, 6), max(0, seconds - 6))})
    assert busy.row({"learner/0": report(6, 4)}) == {"learner": 0.6}
    assert busy.row({"learner/0": report(6, 14)}) == {"learner": 0.0}


def test_a_step_without_a_report_of_its_own_has_the_shares_of_the_step_before() -> None:
    busy = StepBusy()
    busy.look({"learner/0": report(0, 0), "prm/0": report(0, 0)})
    assert busy.row({"learner/0": report(1, 3), "prm/0": report(2, 2)}) == {"learner": 0.25, "prm": 0.5}
    assert busy.row({"learner/0": report(1, 3), "prm/0": report(2, 2)}) == {"learner": 0.25, "prm": 0.5}
    # The PRM fell silent: nothing is known of it any more.
    assert busy.row({"learner/0": report(2, 4)}) == {"learner": 0.5}
