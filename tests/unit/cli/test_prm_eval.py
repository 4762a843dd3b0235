"""What `oprime prm eval` computes of scores: steps, first errors, every step, best of N."""

import numpy as np
import pytest

from oprime_cli.prm_eval import best_of
from oprime_cli.prm_eval.best_of import Candidates, best_of_n
from oprime_cli.prm_eval.every_step import every_step
from oprime_cli.prm_eval.first_errors import first_errors
from oprime_cli.prm_eval.step_scores import BEYOND, ScoredSteps, step_scores, steps_of_tokens

STEPS = ("ab", "c", "def")
"""Joined by `||` they are `ab||c||def`: the steps end at characters 4, 7 and 10, separators included."""


@pytest.mark.parametrize(
    ("ends", "owners"),
    [
        ([2, 4, 5, 7, 10], [0, 0, 1, 1, 2]),
        # A token that reaches over a boundary belongs to where it ends; one without a character to where it stands.
        ([1, 6, 6, 9, 10], [0, 1, 1, 2, 2]),
        ([0, 4, 10], [0, 0, 2]),
    ],
)
def test_a_token_belongs_to_the_step_that_it_ends_in(ends: list[int], owners: list[int]) -> None:
    assert steps_of_tokens(ends, STEPS, "||").tolist() == owners


def scored(rewards: list[float], owners: list[int], steps: int) -> ScoredSteps:
    values = np.array(rewards)
    return step_scores(values, -values, values - 1, np.array(owners), steps)


def test_steps_of_the_worked_example() -> None:
    # Log-ratios [3, -1, 2 | -4, 1 | 5, .5] at a beta of .001.
    found = scored([0.003, -0.001, 0.002, -0.004, 0.001, 0.005, 0.0005], [0, 0, 0, 1, 1, 2, 2], 3)
    assert not found.cut
    assert found.scores["single_sum"].tolist() == pytest.approx([0.004, -0.003, 0.0055])
    assert found.scores["cumulative_sum"].tolist() == pytest.approx([0.004, 0.001, 0.0065])
    assert found.scores["single_mean"].tolist() == pytest.approx([0.004 / 3, -0.0015, 0.00275])
    assert found.scores["cumulative_mean"].tolist() == pytest.approx([0.004 / 3, 0.0002, 0.0065 / 7])
    assert found.scores["reference_logprob"].tolist() == pytest.approx([-0.004 / 3, 0.0015, -0.00275])


@pytest.mark.parametrize(("known", "whole"), [(0, 0), (2, 0), (3, 1), (4, 1), (5, 2), (7, 3)])
def test_a_step_that_the_context_does_not_hold_whole_is_never_suspicious(known: int, whole: int) -> None:
    found = scored([-1.0] * known, [0, 0, 0, 1, 1, 2, 2], 3)
    assert found.cut == (whole < 3)
    for values in found.scores.values():
        assert np.isinf(values).tolist() == [place >= whole for place in range(3)]


def test_a_step_without_a_token_of_its_own_scores_0() -> None:
    found = scored([1.0, 2.0], [0, 2], 3)
    assert found.scores["single_sum"].tolist() == [1.0, 0.0, 2.0]
    assert found.scores["cumulative_mean"].tolist() == [1.0, 1.0, 1.5]


def rows(*values: list[float]) -> list[np.ndarray]:
    return [np.array(one) for one in values]


def test_the_first_step_below_the_threshold_is_named() -> None:
    # Wrong at 1, 1, 0, 1 and two right ones. Every other solution of each kind is measured: the second, the fourth and the last.
    scores = rows([2, -2], [3, -1, -5], [-3], [-1, -1], [1, 1], [1, -0.5])
    found = first_errors(scores, [1, 1, 0, 1, -1, -1], threshold=0.0)
    # The second is found at 1; the fourth is called wrong at 0 already; the right one is not passed.
    assert (found.found_wrong, found.passed_right, found.f1) == (0.5, 0.0, 0.0)
    lower = first_errors(scores, [1, 1, 0, 1, -1, -1], threshold=-0.6)
    assert (lower.found_wrong, lower.passed_right) == (0.5, 1.0)
    assert lower.f1 == pytest.approx(2 / 3)


def test_the_threshold_is_fitted_on_the_solutions_that_are_not_measured() -> None:
    # On the first of each kind 4 separates; on those that are measured nothing above 0 does.
    scores = rows([9, 3], [9, -1], [5, 5], [1, 1])
    found = first_errors(scores, [1, 1, -1, -1])
    assert 3 < found.threshold < 5
    assert (found.found_wrong, found.passed_right) == (1.0, 0.0)


def test_a_step_beyond_the_context_is_not_found() -> None:
    scores = rows([1, BEYOND], [1, BEYOND], [1, 1], [1, 1])
    assert first_errors(scores, [1, 1, -1, -1], threshold=0.0).found_wrong == 0.0


def test_solutions_of_one_kind_cannot_be_judged() -> None:
    with pytest.raises(ValueError, match="1 wrong and 3 right solutions cannot be halved"):
        first_errors(rows([1], [1], [1], [1]), [0, -1, -1, -1])


def test_every_step_is_called_right_or_wrong() -> None:
    # Of the second solution the first and last steps are wrong: one is caught, one is missed, and one right step is called wrong.
    found = every_step(rows([1.0], [-1, -2, 3, 4]), [[], [0, 3]], threshold=0.0)
    assert found.wrong_f1 == pytest.approx(2 * 1 / (2 + 2))
    assert found.right_f1 == pytest.approx(2 * 1 / (2 + 2))
    assert found.prm_score == pytest.approx(0.5)


def test_the_threshold_of_every_step_is_fitted_on_the_other_half() -> None:
    found = every_step(rows([1, 2, 9, 9], [1, 2, 9, 9]), [[0, 1], [0, 1]])
    assert 2 < found.threshold <= 9
    assert found.prm_score == 1.0


def test_where_no_step_is_wrong_there_is_no_prm_score() -> None:
    found = every_step(rows([1.0], [1.0, -1.0]), [[], []], threshold=0.0)
    assert (found.prm_score, found.wrong_f1) == (None, None)
    assert found.right_f1 == pytest.approx(2 / 3)
    assert every_step(rows([1.0], [1.0]), [[], []]).prm_score is None


ONE = Candidates(outcome_rewards=(0, 1, 0, 1), answers=("7", "4", "7", ""), scores={"sum": (0.1, 2.0, -1.0, 3.0)})


@pytest.mark.parametrize(
    ("choose", "chosen"),
    [
        (best_of.first, 0),
        (best_of.any_right, 1),
        # 7 has two votes; sigmoid weights .525 + .269 lose against .881 for 4, and the last answers nothing.
        (best_of.majority, 0),
        (best_of.weighted_majority("sum"), 1),
        (best_of.best_scored("sum"), 1),
    ],
)
def test_ways_to_choose_of_four(choose: best_of.Choose, chosen: float) -> None:
    assert best_of_n([ONE], 4, choose) == chosen


def test_runs_of_fewer_are_averaged_and_each_prompt_counts_once() -> None:
    # Of pairs: (0, 1) and (0, 1); the first of each is wrong, the PRM finds the right one.
    assert best_of_n([ONE], 2, best_of.first) == 0.0
    assert best_of_n([ONE], 2, best_of.best_scored("sum")) == 1.0
    assert best_of_n([ONE], 1, best_of.first) == 0.5
    short = Candidates(outcome_rewards=(1,), answers=("1",), scores={"sum": (0.0,)})
    assert best_of_n([ONE, short], 1, best_of.first) == 0.75
    assert best_of_n([ONE, short], 2, best_of.first) == 0.0
    with pytest.raises(ValueError, match="no prompt has 8 responses"):
        best_of_n([ONE, short], 8, best_of.first)


def test_the_earliest_of_equals_is_chosen_and_no_answer_at_all_falls_back_on_the_first() -> None:
    equal = Candidates(outcome_rewards=(1, 0), answers=("a", "b"), scores={"sum": (1.0, 1.0)})
    assert best_of_n([equal], 2, best_of.majority) == best_of_n([equal], 2, best_of.best_scored("sum")) == 1.0
    silent = Candidates(outcome_rewards=(1, 0), answers=("", ""), scores={"sum": (0.0, 1.0)})
    assert best_of_n([silent], 2, best_of.majority) == 1.0
