"""Scores of reasoning steps."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oprime.core.step_scores import first_error, response_score, step_scores

# Three steps; beta = 0.001.
REWARDS = 0.001 * torch.tensor([3, -1, 2, -4, 1, 5, 0.5], dtype=torch.float64)
ENDS = [3, 5, 7]


def test_step_scores_of_the_worked_example() -> None:
    scores = step_scores(REWARDS, ENDS)
    assert scores.of("cumulative").tolist() == pytest.approx([0.004, 0.001, 0.0065])
    assert scores.of("single").tolist() == pytest.approx([0.004, -0.003, 0.0055])
    assert torch.sigmoid(scores.cumulative).tolist() == pytest.approx([0.501, 0.50025, 0.501625], abs=1e-6)


@pytest.mark.parametrize(
    ("kind", "reduction", "expected"),
    [("single", "min", -0.003), ("single", "sum", 0.0065), ("cumulative", "min", 0.001), ("cumulative", "sum", 0.0115)],
)
def test_response_scores_of_the_worked_example(kind: str, reduction: str, expected: float) -> None:
    scores = step_scores(REWARDS, ENDS).of(kind)  # pyright: ignore[reportArgumentType]
    assert response_score(scores, reduction) == pytest.approx(expected)  # pyright: ignore[reportArgumentType]


def test_the_first_step_below_the_threshold_is_the_error() -> None:
    cumulative = step_scores(REWARDS, ENDS).cumulative
    assert first_error(cumulative, 0.5005) == 1
    assert first_error(cumulative, 0.5) is None


@pytest.mark.parametrize("ends", [[3, 5], [3, 3, 7], [0, 7], [5, 3, 7], []])
def test_ends_that_do_not_cut_the_response_into_steps_are_refused(ends: list[int]) -> None:
    with pytest.raises(ValueError, match="must grow and end at the 7 tokens"):
        step_scores(REWARDS, ends)


def test_a_response_without_tokens_has_no_steps() -> None:
    assert step_scores(torch.zeros(0), []).single.shape == (0,)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(st.floats(-2, 2), min_size=1, max_size=4), min_size=1, max_size=4))
def test_single_scores_add_up_to_the_cumulative_ones(steps: list[list[float]]) -> None:
    ends = [sum(len(step) for step in steps[: count + 1]) for count in range(len(steps))]
    scores = step_scores(torch.tensor([reward for step in steps for reward in step], dtype=torch.float64), ends)
    assert scores.single.tolist() == pytest.approx([sum(step) for step in steps], abs=1e-9)
    assert scores.single.cumsum(0).tolist() == pytest.approx(scores.cumulative.tolist(), abs=1e-9)
