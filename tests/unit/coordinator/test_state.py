"""The coordinator's numbers and its restart."""

import pytest

from oprime_coordinator.admission import groups_to_issue
from oprime_coordinator.restore import as_of
from oprime_coordinator.state import LEAST_ACCEPTANCE, CoordinatorState


def test_state_survives_the_queue() -> None:
    state = CoordinatorState(next_group_id=7, next_step=3, committed_step=2).after_decision(accepted=True)
    assert CoordinatorState.from_bytes(state.to_bytes()) == state


def test_the_acceptance_rate_follows_the_decisions_and_never_reaches_zero() -> None:
    state = CoordinatorState()
    assert state.acceptance_rate == pytest.approx(0.5)
    for _ in range(92):
        state = state.after_decision(accepted=True)
    assert state.acceptance_rate == pytest.approx(96 / 100)
    for _ in range(5000):
        state = state.after_decision(accepted=False)
    assert state.acceptance_rate == LEAST_ACCEPTANCE


def issue(state: CoordinatorState, **more: int) -> int:
    values = {"ready": 0, "live": 0, "groups_per_batch": 8, "max_staleness": 0, "max_live_groups": 1000, "total_steps": 10}
    return groups_to_issue(state, **(values | more))


def test_a_synchronous_run_issues_one_wave_and_waits_for_it() -> None:
    assert issue(CoordinatorState()) == 16
    assert issue(CoordinatorState(), live=1) == 0
    assert issue(CoordinatorState(), ready=5) == 6


def test_nothing_is_issued_for_batches_beyond_the_last_step() -> None:
    assert issue(CoordinatorState(next_step=11, committed_step=9), max_staleness=4) == 0
    last = CoordinatorState(next_step=10, committed_step=9, accepted=8.0, decided=8.0)
    assert issue(last, max_staleness=4) == 8


def test_the_cap_on_live_groups_holds() -> None:
    assert issue(CoordinatorState(), max_staleness=4, max_live_groups=10, live=3) == 7


def test_what_was_trained_after_the_checkpoint_is_live_again() -> None:
    assert as_of("trained:5", 4) == "live"
    assert as_of("trained:4", 4) == "trained:4"
    assert as_of("baseline:5", 4) == "live"
    assert as_of("baseline:4", 4) == "baseline:4"
    assert as_of("filtered:accuracy_low", 4) == "filtered:accuracy_low"
