import math

import pytest

from oprime_gateway.votes import Weight, count, ranked, weights


def test_the_highest_reward_comes_first_and_of_equal_ones_the_first_response() -> None:
    assert ranked({0: 1.0, 1: 3.0, 2: -1.0, 3: 3.0}) == [1, 3, 0, 2]


@pytest.mark.parametrize(
    ("weight", "expected"),
    [(Weight.SIGMOID, [0.5, 0.75]), (Weight.SOFTMAX, [0.25, 0.75]), (Weight.NONE, [1.0, 1.0])],
)
def test_weights(weight: Weight, expected: list[float]) -> None:
    # exp(log 3) = 3, so that the shares are 1/4 and 3/4 and the sigmoids 1/2 and 3/4.
    found = weights({5: 0.0, 2: math.log(3.0)}, weight)
    assert [found[5], found[2]] == pytest.approx(expected)


@pytest.mark.parametrize("weight", list(Weight))
def test_weights_of_rewards_that_no_exponential_can_hold(weight: Weight) -> None:
    found = weights({0: 1e6, 1: -1e6}, weight)
    assert [math.isfinite(value) for value in found.values()] == [True, True]
    assert found[0] >= found[1]


def test_two_middling_responses_outvote_one_good_one_and_the_best_of_them_is_named_first() -> None:
    rewards = {0: 2.0, 1: 0.0, 2: 1.0}
    first, second = count([("7", [0]), ("8", [1, 2])], rewards, Weight.SIGMOID)
    assert (first.answer, first.responses) == ("8", (2, 1))
    assert first.weight == pytest.approx(0.5 + 1 / (1 + math.exp(-1)))
    assert second.weight == pytest.approx(1 / (1 + math.exp(-2)))


def test_of_equal_votes_that_of_the_best_response_wins() -> None:
    votes = count([("7", [0]), ("8", [1])], {0: -1.0, 1: 1.0}, Weight.NONE)
    assert [vote.answer for vote in votes] == ["8", "7"]


def test_nobody_votes_where_nobody_answers() -> None:
    assert count([], {}, Weight.SOFTMAX) == []
