import re

import pytest

from oprime.core.types import Outcome, OutcomeStatus
from oprime.runtime.errors import SettingsError, UnusableInputError
from oprime_verifier.registry import load_registry, to_outcome

PLUGINS = "service.verifier_plugins"


def test_the_built_in_verifiers_are_there() -> None:
    assert sorted(load_registry({}).entries) == ["chain", "exact", "math"]


def test_a_plug_in_judges_under_its_name_and_describes_itself() -> None:
    registry = load_registry({"long": f"{PLUGINS}:length"})
    assert registry.judge("long", "abc", "4") == Outcome(status=OutcomeStatus.SCORED, score=0.75, verifier="long")
    assert registry.entries["long"].description == "Share of the wanted number of characters."


def test_an_unknown_verifier_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(UnusableInputError, match=re.escape("'maths': this service offers chain, exact, math")):
        load_registry({}).judge("maths", "a", "b")


@pytest.mark.parametrize(
    ("target", "rule"),
    [
        ("nowhere_to_be_found:judge", "cannot be imported"),
        (f"{PLUGINS}:absent", "cannot be imported"),
        (f"{PLUGINS}:NOT_A_FUNCTION", "is a int, not a function"),
        (PLUGINS, 'a plug-in is "module:function"'),
        (":judge", 'a plug-in is "module:function"'),
    ],
)
def test_a_plug_in_that_cannot_be_used_is_a_wrong_setting(target: str, rule: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(rule)) as refused:
        load_registry({"mine": target})
    assert f"verifier.plugins.mine = {target!r}" in str(refused.value)


def test_a_plug_in_cannot_take_the_name_of_a_built_in_verifier() -> None:
    with pytest.raises(SettingsError, match="built-in"):
        load_registry({"math": f"{PLUGINS}:length"})


@pytest.mark.parametrize("result", [1, 1.0, True])
def test_numbers_and_truth_values_are_scores(result: object) -> None:
    assert to_outcome(result) == Outcome(status=OutcomeStatus.SCORED, score=1.0)


def test_a_mapping_may_carry_answer_and_reason() -> None:
    outcome = to_outcome({"score": 0.5, "answer": 7, "reason": "half", "other": 1})
    assert outcome == Outcome(status=OutcomeStatus.SCORED, score=0.5, answer="7", reason="half")


def test_an_outcome_is_taken_as_it_is() -> None:
    invalid = Outcome(status=OutcomeStatus.INVALID, score=0.0, reason="no answer")
    assert to_outcome(invalid) == invalid


@pytest.mark.parametrize(
    ("result", "what"),
    [
        (2.0, "the score 2.0"),
        (-0.1, "the score -0.1"),
        (float("nan"), "the score nan"),
        (float("inf"), "the score inf"),
        ("1.0", "'1.0', a str"),
        (None, "None, a NoneType"),
        ({"acc": 1.0}, "without `score`"),
        ({"score": "good"}, "'good', a str"),
        (Outcome(status=OutcomeStatus.SCORED, score=None), "None, a NoneType"),
        (Outcome(status=OutcomeStatus.SCORED, score=7.0), "the score 7.0"),
        ("x" * 10_000, "a str"),
    ],
)
def test_anything_else_is_an_error_that_says_what_came_back(result: object, what: str) -> None:
    outcome = to_outcome(result)
    assert (outcome.status, outcome.score) == (OutcomeStatus.ERROR, None)
    assert what in outcome.reason
    assert len(outcome.reason) < 400


def test_an_error_outcome_has_no_score() -> None:
    assert to_outcome(Outcome(status=OutcomeStatus.ERROR, score=0.0, reason="gpu lost")).score is None


@pytest.mark.parametrize(
    ("name", "what"), [("raises", "raised RuntimeError: no judgement for abc"), ("leave", "raised SystemExit: enough")]
)
def test_a_plug_in_that_raises_is_an_error(name: str, what: str) -> None:
    outcome = load_registry({name: f"{PLUGINS}:{name}"}).judge(name, "abc", "4")
    assert (outcome.status, outcome.score) == (OutcomeStatus.ERROR, None)
    assert what in outcome.reason
