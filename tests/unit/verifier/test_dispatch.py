"""What callers of one question share, and what a caller with more time is never given."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from oprime.core.verification import Outcome, Verdict, VerificationRequest, correct, unscored
from oprime_verifier.external.composition import Composition
from oprime_verifier.external.settings import CompositionSection
from oprime_verifier.judgement import patient_judgement
from oprime_verifier.ports import VerifierDescription
from oprime_verifier.working.dispatch import Dispatcher

ASKED = VerificationRequest(kind="slow", response="8", golds=("8",))
OUT_OF_TIME = unscored(Verdict.INFRA_ERROR, "out of time", cacheable=False)


class Slow:
    """Answers when `go` is set, or says that it ran out of the request's time."""

    def __init__(self, outcome: Callable[[VerificationRequest], Outcome] = lambda _: correct()) -> None:
        self.go = asyncio.Event()
        self.asked: list[VerificationRequest] = []
        self.patient: list[bool] = []
        self._outcome = outcome

    async def verify(self, request: VerificationRequest) -> Outcome:
        self.asked.append(request)
        self.patient.append(patient_judgement() is not None)
        try:
            async with asyncio.timeout(request.deadline_s or None):
                await self.go.wait()
        except TimeoutError:
            return OUT_OF_TIME
        return self._outcome(request)

    def describe(self) -> VerifierDescription:
        return VerifierDescription(name="slow")

    async def close(self) -> None: ...


def dispatching(verifier: Slow) -> Dispatcher:
    return Dispatcher({"slow": verifier}, cache_entries=100)


async def test_a_caller_with_more_time_is_not_given_what_another_s_deadline_cut_short() -> None:
    verifier = Slow()
    dispatcher = dispatching(verifier)
    short = asyncio.create_task(dispatcher.verify(replace(ASKED, deadline_s=0.1)))
    await asyncio.sleep(0)
    long = asyncio.create_task(dispatcher.verify(replace(ASKED, deadline_s=30.0)))
    patient = asyncio.create_task(dispatcher.verify(ASKED))
    assert (await short).verdict is Verdict.INFRA_ERROR
    verifier.go.set()
    assert ((await long).verdict, (await patient).verdict) == (Verdict.CORRECT, Verdict.CORRECT)
    # It is asked again with the time that is left.
    assert 29.0 < next(request.deadline_s for request in verifier.asked if request.deadline_s > 1) < 30.0


async def test_a_caller_with_less_time_does_not_wait_for_one_with_more() -> None:
    verifier = Slow()
    dispatcher = dispatching(verifier)
    long = asyncio.create_task(dispatcher.verify(replace(ASKED, deadline_s=30.0)))
    await asyncio.sleep(0)
    outcome = await dispatcher.verify(replace(ASKED, deadline_s=0.1))
    assert (outcome.verdict, outcome.reason) == (Verdict.INFRA_ERROR, "no verdict within 0.1 s")
    verifier.go.set()
    assert (await long).verdict is Verdict.CORRECT
    assert len(verifier.asked) == 1


@pytest.mark.parametrize("deadlines", [(0.0, 0.0), (5.0, 5.0), (30.0, 5.0)])
async def test_callers_with_no_more_time_share_one_judgement(deadlines: tuple[float, float]) -> None:
    verifier = Slow(lambda _: unscored(Verdict.UNDECIDED, "too hard"))
    dispatcher = dispatching(verifier)
    tasks = [asyncio.create_task(dispatcher.verify(replace(ASKED, deadline_s=seconds))) for seconds in deadlines]
    await asyncio.sleep(0)
    verifier.go.set()
    assert [(await task).verdict for task in tasks] == [Verdict.UNDECIDED] * 2
    assert len(verifier.asked) == 1


async def test_zero_is_each_verifier_s_own_deadline_which_may_be_shorter_than_the_caller_s() -> None:
    verifier = Slow(lambda request: correct() if request.deadline_s else OUT_OF_TIME)
    dispatcher = dispatching(verifier)
    default = asyncio.create_task(dispatcher.verify(ASKED))
    await asyncio.sleep(0)
    long = asyncio.create_task(dispatcher.verify(replace(ASKED, deadline_s=600.0)))
    await asyncio.sleep(0)
    verifier.go.set()
    assert ((await default).verdict, (await long).verdict) == (Verdict.INFRA_ERROR, Verdict.CORRECT)


@pytest.mark.parametrize(
    "outcome",
    [
        unscored(Verdict.UNDECIDED, "no time"),
        Outcome(verdict=Verdict.TIME, score=0.0),
        unscored(Verdict.INFRA_ERROR, "down"),
        correct(cacheable=False),
    ],
)
async def test_what_more_time_might_change_is_not_remembered(outcome: Outcome) -> None:
    verifier = Slow(lambda request: correct() if request.deadline_s > 1 else outcome)
    verifier.go.set()
    dispatcher = dispatching(verifier)
    assert (await dispatcher.verify(replace(ASKED, deadline_s=1.0))).verdict is outcome.verdict
    assert (await dispatcher.verify(replace(ASKED, deadline_s=60.0))).verdict is Verdict.CORRECT
    assert len(verifier.asked) == 2


async def test_what_no_time_changes_is_remembered_for_every_deadline() -> None:
    verifier = Slow()
    verifier.go.set()
    dispatcher = dispatching(verifier)
    for seconds in (1.0, 60.0, 0.0):
        assert (await dispatcher.verify(replace(ASKED, deadline_s=seconds))).verdict is Verdict.CORRECT
    assert len(verifier.asked) == 1


async def test_a_composition_is_not_remembered_where_a_part_ran_out_of_time() -> None:
    verifier = Slow(lambda _: unscored(Verdict.UNDECIDED, "no time"))
    verifier.go.set()
    second = Slow()
    second.go.set()
    section = CompositionSection(mode="first_decided", parts=("a", "b"))
    outcome = await Composition("whole", section, {"a": verifier, "b": second}).verify(ASKED)
    assert (outcome.verdict, outcome.cacheable) == (Verdict.CORRECT, False)


async def test_who_can_wait_and_who_cannot_share_no_judgement_but_what_is_known() -> None:
    verifier = Slow()
    dispatcher = dispatching(verifier)
    tasks = [asyncio.create_task(dispatcher.verify(ASKED, patient=patient)) for patient in (True, False, True)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert verifier.patient == [True, False]
    verifier.go.set()
    assert {(await task).verdict for task in tasks} == {Verdict.CORRECT}
    await dispatcher.verify(ASKED, patient=True)
    assert len(verifier.asked) == 2


async def test_closing_ends_what_is_under_way() -> None:
    dispatcher = dispatching(Slow())
    asked = asyncio.create_task(dispatcher.verify(ASKED))
    await asyncio.sleep(0)
    await dispatcher.close()
    with pytest.raises(asyncio.CancelledError):
        await asked


async def test_what_a_verifier_says_has_a_utf_8_form_and_bounds() -> None:
    odd = "half \ud800 of a character"
    verifier = Slow(lambda _: correct(reason=odd + "x" * 5000, answer=odd, flags=(odd,) * 100, components={odd: 0.5}))
    verifier.go.set()
    outcome = await dispatching(verifier).verify(ASKED)
    assert outcome.reason.startswith("half \\ud800 of a character")
    assert (outcome.answer, list(outcome.components)) == ("half \\ud800 of a character", ["half \\ud800 of a character"])
    assert (len(outcome.reason) < 1100, len(outcome.flags)) == (True, 64)
