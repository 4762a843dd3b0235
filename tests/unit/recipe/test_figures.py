"""From judged responses to the recipe's table."""

import pytest
from recipe.figures import Judged, accuracies, answer_of, best_of, labelled_rows, localisation, markdown, rollout_rows, tables

from oprime.tasks.prose.problem import Choice
from oprime.tasks.prose.teacher import problem, right_response
from oprime.tasks.prose.writing import written

MATH, CODE = problem("heldout", 0), problem("heldout", 1)
RIGHT_MATH, RIGHT_CODE = right_response(MATH), right_response(CODE)


def judged(*scores: float, response: str = RIGHT_MATH) -> list[Judged]:
    """One word problem and one function, with these scores each."""
    responses = (response,) * len(scores)
    return [Judged(kind=posed.kind, prompt=posed.prompt, responses=responses, scores=scores) for posed in (MATH, CODE)]


def test_the_gain_is_the_difference_on_the_same_problems() -> None:
    found = accuracies(judged(1, 0, 0, 0), judged(1, 1, 1, 0))["math"]
    assert (found["problems"], found["responses"]) == (1, 4)
    assert found["before"]["value"] == 0.25
    assert found["after"]["value"] == 0.75
    assert found["gain"] == {"value": 0.5, "low": 0.5, "high": 0.5}


def test_a_gain_on_other_problems_is_refused() -> None:
    with pytest.raises(ValueError, match="different problems"):
        accuracies(judged(1), judged(1)[::-1])


def test_responses_that_break_the_action_form_are_counted() -> None:
    found = accuracies(judged(1, 1), judged(1, 1, response=r"It is \boxed{3}."))["code"]
    assert (found["in_form_before"]["value"], found["in_form_after"]["value"]) == (1.0, 0.0)


def test_an_answer_is_the_number_in_the_box_or_the_program() -> None:
    assert answer_of("math", RIGHT_MATH) == MATH.ground_truth
    assert answer_of("code", RIGHT_CODE) == CODE.solution([Choice.RIGHT] * 3).output
    assert answer_of("math", "I do not know.") == ""


def test_rows_for_best_of_n_are_those_of_one_kind() -> None:
    # The same words twice are one problem.
    (row,) = labelled_rows([*judged(1, 0), *judged(0, 0)], "math")
    assert row["prompt"] == MATH.prompt
    assert row["labels"] == [1, 0]
    assert row["answers"] == [MATH.ground_truth] * 2


def test_what_says_nothing_is_not_asked_about() -> None:
    assert list(labelled_rows(judged(0, response=" "), "math")) == []
    (row,) = labelled_rows(judged(0, response="\\n"), "math")
    assert row["answers"] == [""]
    rollouts = [{"response": "", "outcome_reward": 0.0}, {"response": RIGHT_MATH, "outcome_reward": 1.0}]
    (kept,) = rollout_rows([{"prompt": MATH.prompt, "rollouts": rollouts}])
    assert kept["responses"] == [RIGHT_MATH]


def test_rollouts_of_a_run_become_labelled_responses_to_the_bare_prompt() -> None:
    wrong = written(MATH.solution([Choice.CONFUSER] * 3))
    rollouts = [{"response": RIGHT_MATH, "outcome_reward": 1.0}, {"response": wrong, "outcome_reward": 0.0}]
    rows = rollout_rows([{"prompt": f"<user>{MATH.prompt}<assistant>", "rollouts": rollouts}])
    assert list(rows) == [{"prompt": MATH.prompt, "responses": [RIGHT_MATH, wrong], "labels": [1.0, 0.0]}]


def test_the_report_shows_gains_with_intervals_and_the_prm_beside_the_log_prob() -> None:
    ways = {"first": {"1": 0.5, "2": 0.5}, "majority": {"1": 0.5, "2": 0.5}, "pass": {"1": 0.5, "2": 0.75}}
    ways |= {f"prm_{way}": {"1": 0.5, "2": 0.625} for way in ("sum", "mean", "min_step")}
    first_errors = {"single_sum": {"fitted": {"f1": 0.9}}, "reference_logprob": {"fitted": {"f1": 0.4}}}
    report = {
        "accuracy": accuracies(judged(1, 0, 0, 0), judged(1, 1, 1, 0)),
        "localisation": localisation({"subsets": [{"subset": "natural", "ways": first_errors}]}),
        "best_of_n": best_of({"subsets": [{"subset": "math", "ways": ways}]}),
        "seconds": {"sft": 61.4},
    }
    lines = markdown(tables(report)).splitlines()
    assert "| math | 1 | 25.0 [25.0, 25.0] | 75.0 [75.0, 75.0] | +50.0 [+50.0, +50.0] | 100.0 | 100.0 |" in lines
    assert "| natural | 90.0 | 40.0 |" in lines
    assert "| prm_sum | 50.0 | 62.5 |" in lines
    assert "| sft | 61 |" in lines
