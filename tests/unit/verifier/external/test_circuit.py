"""The circuit breaker, on a clock that stands still."""

from fakes import ManualClock
from oprime_verifier.external.circuit import Circuit, CircuitState


def circuit(clock: ManualClock) -> Circuit:
    return Circuit(failures=3, open_s=10, now=clock.now)


def fail(broken: Circuit, times: int) -> None:
    for _ in range(times):
        assert broken.admit()
        broken.failed()


def test_it_opens_after_failures_in_a_row() -> None:
    broken = circuit(ManualClock())
    fail(broken, 2)
    assert broken.state is CircuitState.CLOSED
    fail(broken, 1)
    assert broken.state is CircuitState.OPEN
    assert not broken.admit()
    assert broken.closes_in_s == 10


def test_a_success_between_starts_the_count_again() -> None:
    broken = circuit(ManualClock())
    fail(broken, 2)
    assert broken.admit()
    broken.succeeded()
    fail(broken, 2)
    assert broken.state is CircuitState.CLOSED


def test_one_call_finds_out_whether_it_works_again() -> None:
    clock = ManualClock()
    broken = circuit(clock)
    fail(broken, 3)
    clock.advance(10)
    assert broken.state is CircuitState.HALF_OPEN
    assert [broken.admit(), broken.admit()] == [True, False]
    broken.succeeded()
    assert broken.state is CircuitState.CLOSED
    assert broken.admit()


def test_it_opens_again_when_that_call_fails() -> None:
    clock = ManualClock()
    broken = circuit(clock)
    fail(broken, 3)
    clock.advance(10)
    fail(broken, 1)
    assert broken.state is CircuitState.OPEN
    clock.advance(9)
    assert not broken.admit()


def test_a_caller_that_gives_up_leaves_the_next_one_try() -> None:
    clock = ManualClock()
    broken = circuit(clock)
    fail(broken, 3)
    clock.advance(10)
    assert broken.admit()
    broken.abandoned()
    assert broken.admit()
