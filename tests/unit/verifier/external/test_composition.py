"""Verifiers made of others."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from oprime.core.verification import Outcome, Verdict, VerificationRequest, correct, incorrect, no_answer, unscored
from oprime_verifier.external.composition import Composition
from oprime_verifier.external.settings import CompositionSection
from oprime_verifier.ports import VerifierDescription

REQUEST = VerificationRequest(kind="whole", response="8", golds=("8",))
CORRECT = correct()
INCORRECT = incorrect(reason="not equal")
HALF = Outcome(verdict=Verdict.PARTIAL, score=0.5)
UNDECIDED = unscored(Verdict.UNDECIDED, "too hard")
INFRA = unscored(Verdict.INFRA_ERROR, "it is down", cacheable=False)
BAD_TASK = unscored(Verdict.BAD_TASK, "no gold")
NOTHING = unscored(Verdict.NOT_APPLICABLE, "no code")


@dataclass
class Says:
    """A verifier with one answer."""

    outcome: Outcome
    asked: list[VerificationRequest] = field(default_factory=list)

    async def verify(self, request: VerificationRequest) -> Outcome:
        self.asked.append(request)
        return self.outcome

    def describe(self) -> VerifierDescription:
        return VerifierDescription(name="says", version="2", problem="" if self.outcome is not INFRA else "down")

    async def close(self) -> None: ...


def composition(mode: Any, *outcomes: Outcome, weights: tuple[float, ...] = ()) -> tuple[Composition, list[Says]]:
    names = "abcdef"[: len(outcomes)]
    verifiers = [Says(outcome) for outcome in outcomes]
    section = CompositionSection(mode=mode, parts=tuple(names), weights=weights)
    return Composition("whole", section, dict(zip(names, verifiers, strict=True))), verifiers


async def verdict(mode: Any, *outcomes: Outcome, weights: tuple[float, ...] = ()) -> tuple[Verdict, float | None]:
    outcome = await composition(mode, *outcomes, weights=weights)[0].verify(REQUEST)
    return outcome.verdict, outcome.score


async def test_the_first_part_that_can_tell_decides() -> None:
    whole, (first, second, third) = composition("first_decided", UNDECIDED, CORRECT, INCORRECT)
    outcome = await whole.verify(REQUEST)
    assert (outcome.verdict, outcome.score) == (Verdict.CORRECT, 1.0)
    assert [len(part.asked) for part in (first, second, third)] == [1, 1, 0]
    assert outcome.reason == "a: too hard; b: CORRECT"
    assert outcome.components == {"b": 1.0}


async def test_a_judge_never_overturns_an_incorrect() -> None:
    whole, (_, judge) = composition("first_decided", INCORRECT, CORRECT)
    assert (await whole.verify(REQUEST)).verdict is Verdict.INCORRECT
    assert judge.asked == []


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ((NOTHING, CORRECT), Verdict.CORRECT),
        ((UNDECIDED, INFRA), Verdict.INFRA_ERROR),
        ((INFRA, CORRECT), Verdict.INFRA_ERROR),
        ((BAD_TASK, CORRECT), Verdict.BAD_TASK),
        ((no_answer("empty"), CORRECT), Verdict.NO_ANSWER),
        ((UNDECIDED, UNDECIDED), Verdict.UNDECIDED),
        ((UNDECIDED, NOTHING), Verdict.UNDECIDED),
        ((NOTHING, NOTHING), Verdict.NOT_APPLICABLE),
    ],
)
async def test_only_what_cannot_tell_is_passed_over(outcomes: tuple[Outcome, ...], expected: Verdict) -> None:
    assert (await verdict("first_decided", *outcomes))[0] is expected


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ((CORRECT, CORRECT), (Verdict.CORRECT, 1.0)),
        ((CORRECT, INCORRECT), (Verdict.INCORRECT, 0.0)),
        ((CORRECT, HALF), (Verdict.PARTIAL, 0.5)),
        ((CORRECT, NOTHING), (Verdict.CORRECT, 1.0)),
        ((NOTHING, NOTHING), (Verdict.NOT_APPLICABLE, None)),
        ((CORRECT, UNDECIDED), (Verdict.UNDECIDED, None)),
        ((INCORRECT, INFRA), (Verdict.INFRA_ERROR, None)),
        ((UNDECIDED, BAD_TASK), (Verdict.BAD_TASK, None)),
        ((BAD_TASK, INFRA), (Verdict.INFRA_ERROR, None)),
    ],
)
async def test_all_is_as_good_as_its_worst_part(outcomes: tuple[Outcome, ...], expected: tuple[Verdict, float | None]) -> None:
    assert await verdict("all", *outcomes) == expected


async def test_weights_make_a_mean() -> None:
    # (3 * 1 + 1 * 0) / 4
    assert await verdict("weighted", CORRECT, INCORRECT, weights=(3, 1)) == (Verdict.PARTIAL, 0.75)
    assert await verdict("weighted", CORRECT, HALF) == (Verdict.PARTIAL, 0.75)


async def test_a_mean_of_equals_is_exact() -> None:
    assert await verdict("weighted", CORRECT, CORRECT, CORRECT, weights=(0.1, 0.2, 0.3)) == (Verdict.CORRECT, 1.0)
    assert await verdict("weighted", INCORRECT, no_answer("empty")) == (Verdict.INCORRECT, 0.0)
    assert await verdict("weighted", no_answer("empty"), no_answer("empty")) == (Verdict.NO_ANSWER, 0.0)


async def test_a_part_that_does_not_apply_has_no_weight() -> None:
    assert await verdict("weighted", CORRECT, NOTHING, weights=(1, 9)) == (Verdict.CORRECT, 1.0)


async def test_a_failed_part_makes_no_mean() -> None:
    assert await verdict("weighted", CORRECT, INFRA) == (Verdict.INFRA_ERROR, None)


@pytest.mark.parametrize(
    ("outcomes", "expected", "asked"),
    [
        ((CORRECT, HALF), (Verdict.PARTIAL, 0.5), 1),
        ((INCORRECT, CORRECT), (Verdict.INCORRECT, 0.0), 0),
        ((HALF, CORRECT), (Verdict.INCORRECT, 0.0), 0),
        ((no_answer("empty"), CORRECT), (Verdict.NO_ANSWER, 0.0), 0),
        ((NOTHING, CORRECT), (Verdict.CORRECT, 1.0), 1),
        ((INFRA, CORRECT), (Verdict.INFRA_ERROR, None), 0),
        ((UNDECIDED, CORRECT), (Verdict.UNDECIDED, None), 0),
        ((CORRECT, INFRA), (Verdict.INFRA_ERROR, None), 1),
    ],
)
async def test_a_gate_lets_through_what_meets_its_condition(
    outcomes: tuple[Outcome, ...], expected: tuple[Verdict, float | None], asked: int
) -> None:
    whole, (_, guarded) = composition("gate", *outcomes)
    outcome = await whole.verify(REQUEST)
    assert (outcome.verdict, outcome.score) == expected
    assert len(guarded.asked) == asked


async def test_parts_are_asked_under_their_own_names_with_their_own_options() -> None:
    whole, (first, second) = composition("all", CORRECT, CORRECT)
    await whole.verify(VerificationRequest(kind="whole", response="8", options={"b": {"strict": True}}))
    assert [(part.asked[0].kind, dict(part.asked[0].options)) for part in (first, second)] == [("a", {}), ("b", {"strict": True})]


async def test_options_of_an_unknown_part_are_a_bad_task() -> None:
    outcome = await composition("all", CORRECT)[0].verify(VerificationRequest(kind="whole", response="8", options={"strict": True}))
    assert outcome.verdict is Verdict.BAD_TASK
    assert "'strict'" in outcome.reason


async def test_later_parts_have_only_the_time_that_is_left() -> None:
    times = iter([100.0, 100.0, 107.0])
    first, second = Says(UNDECIDED), Says(CORRECT)
    section = CompositionSection(mode="first_decided", parts=("a", "b"))
    whole = Composition("whole", section, {"a": first, "b": second}, now=lambda: next(times))
    await whole.verify(VerificationRequest(kind="whole", response="8", deadline_s=10.0))
    assert (first.asked[0].deadline_s, second.asked[0].deadline_s) == (10, 3)


async def test_a_part_for_which_no_time_is_left_is_not_asked() -> None:
    times = iter([100.0, 100.0, 111.0])
    first, second = Says(UNDECIDED), Says(CORRECT)
    section = CompositionSection(mode="first_decided", parts=("a", "b"))
    whole = Composition("whole", section, {"a": first, "b": second}, now=lambda: next(times))
    outcome = await whole.verify(VerificationRequest(kind="whole", response="8", deadline_s=10.0))
    assert outcome.verdict is Verdict.INFRA_ERROR
    assert second.asked == []


async def test_compositions_nest() -> None:
    inner, _ = composition("weighted", CORRECT, INCORRECT)
    outer = Composition("outer", CompositionSection(mode="all", parts=("inner",)), {"inner": inner})
    outcome = await outer.verify(REQUEST)
    assert outcome.score == 0.5
    assert outcome.components == {"inner": 0.5, "inner.a": 1.0, "inner.b": 0.0}


async def test_the_composition_says_who_judged() -> None:
    whole, _ = composition("all", CORRECT, CORRECT)
    other, _ = composition("first_decided", CORRECT, CORRECT)
    identity = (await whole.verify(REQUEST)).verifier
    assert (identity.name, identity.version) == ("whole", "all(a 2, b 2)")
    assert identity.config_hash != (await other.verify(REQUEST)).verifier.config_hash


async def test_a_failure_is_not_cached_and_a_problem_is_described() -> None:
    whole, _ = composition("all", CORRECT, INFRA)
    assert not (await whole.verify(REQUEST)).cacheable
    assert whole.describe().problem == "b: down"
