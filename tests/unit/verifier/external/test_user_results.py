"""What another's verifier returned, as an outcome."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from oprime.core.verification import Verdict, incorrect, unscored
from oprime_verifier.external.results import BrokenContractError, Scale, outcome_of


@dataclass
class RewardOutput:
    """As rllm has it."""

    reward: float | None
    is_correct: bool | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


@pytest.mark.parametrize("result", [1, 1.0, True, np.float32(1), np.bool_(True), torch.tensor(1.0), torch.tensor([1.0])])
def test_one_in_any_type_is_correct(result: object) -> None:
    outcome = outcome_of(result)
    assert (outcome.verdict, outcome.score) == (Verdict.CORRECT, 1.0)


def test_a_number_between_is_partial() -> None:
    outcome = outcome_of(0.25)
    assert (outcome.verdict, outcome.score) == (Verdict.PARTIAL, 0.25)


def test_none_does_not_apply() -> None:
    assert outcome_of(None).verdict is Verdict.NOT_APPLICABLE
    assert outcome_of({"score": None, "reason": "no code here"}).reason == "no code here"


def test_a_mapping_may_say_more_than_the_score() -> None:
    outcome = outcome_of({"score": 0.0, "pred": "7", "reason": "not 8", "acc": False, "length": 3, "flags": ["short"]})
    assert (outcome.verdict, outcome.answer, outcome.reason, outcome.flags) == (Verdict.INCORRECT, "7", "not 8", ("short",))
    assert outcome.components == {"acc": 0.0, "length": 3.0}


def test_a_mapping_may_name_the_verdict() -> None:
    assert outcome_of({"verdict": "UNDECIDED", "reason": "too hard"}).score is None
    assert outcome_of({"verdict": "TIME"}).score == 0.0
    assert outcome_of({"verdict": "NO_ANSWER"}).score == 0.0
    assert outcome_of({"verdict": "CORRECT"}).score == 1.0


def test_a_result_of_chance_need_not_be_remembered() -> None:
    assert outcome_of({"score": 1.0}).cacheable
    assert not outcome_of({"score": 1.0, "cacheable": False}).cacheable
    assert outcome_of({"score": 1.0, "cacheable": False}).components == {}


def test_a_failure_is_not_remembered() -> None:
    assert not outcome_of({"verdict": "INFRA_ERROR", "reason": "down"}).cacheable
    assert not outcome_of(unscored(Verdict.INFRA_ERROR, "down")).cacheable


def test_an_rllm_output_is_scored_by_its_reward() -> None:
    outcome = outcome_of(RewardOutput(reward=1.0, is_correct=True, metadata={"answer": "8"}))
    assert (outcome.score, outcome.answer, outcome.components) == (1.0, "8", {"is_correct": 1.0})


def test_a_declared_range_is_scaled_to_scores() -> None:
    # From -1 to 1: -1 is 0, 0 is half way, 1 is 1.
    scale = Scale(low=-1, high=1)
    assert [outcome_of(reward, scale).score for reward in (-1, 0, 1)] == [0.0, 0.5, 1.0]


def test_clipping_takes_the_nearer_end() -> None:
    assert outcome_of(1.2, Scale(clip=True)).score == 1.0
    assert outcome_of(-3, Scale(clip=True)).score == 0.0


@pytest.mark.parametrize(
    ("result", "told"),
    [
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        (1.5, r"outside \[0, 1\]"),
        (-1, "range"),
        ("1", "a str"),
        ([1.0], "a list"),
        (torch.tensor([1.0, 0.0]), "several values"),
        ({"points": 1}, "`score` or `verdict` is missing"),
        ({"score": "high"}, "a str"),
        ({"verdict": "FINE"}, "'FINE'"),
        ({"verdict": "PARTIAL"}, "without a score"),
        ({"verdict": "UNDECIDED", "score": 0.0}, "contradicts itself"),
        (RewardOutput(reward=float("nan")), "nan"),
        (object(), "a object"),
    ],
)
def test_what_breaks_the_contract_is_named(result: object, told: str) -> None:
    with pytest.raises(BrokenContractError, match=told):
        outcome_of(result)


def test_clipping_does_not_help_what_is_no_number() -> None:
    with pytest.raises(BrokenContractError, match="nan"):
        outcome_of(float("nan"), Scale(clip=True))


def test_an_outcome_is_kept() -> None:
    outcome = incorrect(reason="no")
    assert outcome_of(outcome) is outcome
