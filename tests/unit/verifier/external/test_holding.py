"""What a target that is out means for those who can wait, and for those who cannot."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from fakes import ManualClock
from oprime.core.verification import Outcome, Verdict, VerificationRequest, correct, unscored
from oprime_verifier.external.attempts import OWN_ROUNDS, Attempts, TryFailedError
from oprime_verifier.external.outage import FLAG
from oprime_verifier.external.settings import RemoteSection
from oprime_verifier.judgement import Judgement

REQUEST = VerificationRequest(kind="mine", response="8")
DOWN = TryFailedError("it answered 503")
BUSY = TryFailedError("it answered 429", healthy=True)
REFUSED = TryFailedError("it answered 422", retry=False, healthy=True, own=True)
MALFORMED = TryFailedError("it answered what is not JSON", own=True)


class Target:
    """Fails with what `failing` says, per request, and answers where that is None."""

    def __init__(self, failing: TryFailedError | None = None, **settings: Any) -> None:
        self.clock = ManualClock()
        self.failing = failing
        self.calls = 0
        self.attempts = Attempts(RemoteSection(**settings), target="webhook mine (http://judge)", clock=self.clock, chance=random.Random(1))

    async def ask(self, _seconds: float) -> Outcome:
        self.calls += 1
        if self.failing is not None:
            raise self.failing.again(str(self.failing))
        return correct()

    def judged(self, ask: Callable[[float], Awaitable[Outcome]] | None = None, *, callers: int = 1) -> "asyncio.Task[Outcome]":
        """A request whose `callers` can wait."""
        judgement = Judgement()
        judgement.callers = callers
        with judgement.patiently():
            return asyncio.create_task(self.attempts.outcome(REQUEST, ask or self.ask))


@pytest.mark.parametrize("failing", [DOWN, BUSY])
async def test_who_can_wait_is_held_until_the_target_answers(failing: TryFailedError) -> None:
    target = Target(failing)
    tasks = [target.judged() for _ in range(5)]
    await target.clock.run_for(600)
    assert not any(task.done() for task in tasks)
    target.failing = None
    await target.clock.run_for(120)
    assert [task.result().verdict for task in tasks] == [Verdict.CORRECT] * 5
    assert target.attempts.outage == ""


async def test_a_held_target_is_asked_by_one_request_each_time_the_circuit_lets_one_through() -> None:
    target = Target(DOWN, circuit_failures=5, circuit_open_s=10.0)
    tasks = [target.judged() for _ in range(50)]
    await target.clock.run_for(5)
    before = target.calls
    await target.clock.run_for(600)
    assert 50 <= target.calls - before <= 61
    target.failing = None
    await target.clock.run_for(15)
    assert all(task.done() for task in tasks)


async def test_an_outage_is_told_at_its_beginning_every_minute_and_at_its_end() -> None:
    target = Target(DOWN)
    with capture_logs() as logs:
        task = target.judged(callers=3)
        await target.clock.run_for(200)
        assert "webhook mine (http://judge) has not answered for" in target.attempts.outage
        assert "it answered 503" in target.attempts.outage
        target.failing = None
        await target.clock.run_for(30)
        assert (await task).verdict is Verdict.CORRECT
    events = [entry["event"] for entry in logs]
    assert events == ["verifier_out", "verifier_still_out", "verifier_still_out", "verifier_still_out", "verifier_back"]
    assert {entry["verifier"] for entry in logs} == {"webhook mine (http://judge)"}
    assert {entry["log_level"] for entry in logs} == {"warning"}
    assert all("503" in entry["reason"] for entry in logs[:-1])
    assert {entry["held"] for entry in logs[1:-1]} == {3}


async def test_who_cannot_wait_is_answered_at_once_and_told_that_it_is_an_outage() -> None:
    target = Target(DOWN, attempts=1)
    outcome = await target.attempts.outcome(REQUEST, target.ask)
    assert (outcome.verdict, outcome.flags, target.calls) == (Verdict.INFRA_ERROR, (FLAG,), 1)


async def test_nothing_is_held_longer_than_the_settings_say() -> None:
    target = Target(DOWN, hold_s=300.0)
    task = target.judged()
    await target.clock.run_for(299)
    assert not task.done()
    await target.clock.run_for(2)
    outcome = await task
    assert outcome.verdict is Verdict.INFRA_ERROR
    assert "it was held for 300 s (hold_s)" in outcome.reason


async def test_zero_holds_nothing() -> None:
    target = Target(DOWN, hold_s=0.0, attempts=1)
    outcome = await target.judged()
    assert (outcome.verdict, target.calls) == (Verdict.INFRA_ERROR, 1)


@pytest.mark.parametrize(("failing", "calls"), [(REFUSED, 1), (MALFORMED, 3)])
async def test_a_failure_of_the_request_s_own_is_not_waited_for(failing: TryFailedError, calls: int) -> None:
    target = Target(failing)
    task = target.judged()
    await target.clock.run_for(10)
    outcome = await task
    assert (outcome.verdict, outcome.flags, target.calls) == (Verdict.INFRA_ERROR, (), calls)
    assert str(failing) in outcome.reason


async def test_answers_that_are_all_malformed_are_an_outage() -> None:
    # The first request fails by itself; the second finds the circuit open, and who comes later is held.
    target = Target(MALFORMED, circuit_failures=5, attempts=3)
    tasks = [target.judged()]
    await target.clock.run_for(10)
    tasks += [target.judged() for _ in range(20)]
    await target.clock.run_for(300)
    assert [task.done() for task in tasks] == [True] + [False] * 20
    target.failing = None
    await target.clock.run_for(30)
    assert [task.result().verdict for task in tasks[1:]] == [Verdict.CORRECT] * 20


async def test_a_request_that_fails_while_others_are_answered_is_given_up() -> None:
    target = Target()

    async def poison(_seconds: float) -> Outcome:
        raise TryFailedError("it answered 500")

    task = target.judged(poison)
    for _ in range(600):
        await target.judged()
        await target.clock.run_for(1)
    outcome = await task
    assert outcome.verdict is Verdict.INFRA_ERROR
    assert f"so {OWN_ROUNDS} times while others were answered" in outcome.reason
    assert outcome.flags == ()


async def test_a_service_that_says_that_what_it_asks_is_out_is_waited_for() -> None:
    target = Target()
    answers = [unscored(Verdict.INFRA_ERROR, "its judge is down", flags=(FLAG,))] * 4 + [correct()]

    async def ask(_seconds: float) -> Outcome:
        return answers.pop(0)

    task = target.judged(ask)
    await target.clock.run_for(60)
    assert (await task).verdict is Verdict.CORRECT


async def test_waiting_for_one_s_turn_costs_a_held_request_no_time() -> None:
    target = Target(concurrency=1, deadline_s=30.0)

    async def ask(_seconds: float) -> Outcome:
        await target.clock.sleep(20.0)
        return correct()

    tasks = [target.judged(ask) for _ in range(6)]
    await target.clock.run_for(125)
    assert [task.result().verdict for task in tasks] == [Verdict.CORRECT] * 6
