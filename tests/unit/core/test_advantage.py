"""Leave-one-out advantages: worked examples, a slow second implementation, and laws."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from oprime.core.advantage import (
    AdvantageResult,
    LeaveOneOut,
    at_last_token,
    leave_one_out_mean,
    process_rewards_less_baseline,
    rloo_advantages,
)
from oprime.core.implicit_reward import normalise_by_largest_return
from oprime.core.token_rows import ragged, response_matrix

close = torch.testing.assert_close
Rows = list[list[float]]

# Four responses to one prompt; process rewards are plain log-ratios (beta = 1).
REWARDS = [[1, 0.5, -0.5, 2], [-1, 0], [0.5, 0.5, 0], [0.2, -0.4, 0.6, -0.8, -0.2]]
IS_RESPONSE = torch.tensor([[False] + [token < len(row) for token in range(5)] for row in REWARDS])
PROCESS = response_matrix(REWARDS, IS_RESPONSE, dtype=torch.float64)
OUTCOMES = torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
GROUP = torch.tensor([5, 5, 5, 5])

RELEASED_PROCESS = [
    [0.392963, 0.170741, -0.273704, 0.837407],
    [-0.495926, -0.051481],
    [0.170741, 0.170741, -0.051481],
    [0.037407, -0.229259, 0.215185, -0.407037, -0.14037],
]
PAPER_PROCESS = [
    [0.365185, 0.198518, -0.134815, 0.698518],
    [-0.44037, -0.107037],
    [0.152222, 0.152222, -0.014444],
    [0.001852, -0.198148, 0.135185, -0.331481, -0.131481],
]
RELEASED_RETURNS = [
    [1.794074, 1.401111, 1.23037, 1.504074],
    [-1.214074, -0.718148],
    [0.956667, 0.785926, 0.615185],
    [-1.190741, -1.228148, -0.998889, -1.214074, -0.807037],
]
PAPER_RETURNS = [
    [1.794074, 1.428889, 1.23037, 1.365185],
    [-1.214074, -0.773704],
    [0.956667, 0.804444, 0.652222],
    [-1.190741, -1.192592, -0.994444, -1.129629, -0.798148],
]
RELEASED_ADVANTAGES = [
    [1.435612, 1.109259, 0.96746, 1.194769],
    [-1.062637, -0.650773],
    [0.74015, 0.598351, 0.456552],
    [-1.043259, -1.074325, -0.883927, -1.062637, -0.724595],
]
PAPER_ADVANTAGES = [
    [1.452545, 1.145402, 0.978435, 1.091823],
    [-1.077494, -0.707115],
    [0.748234, 0.620205, 0.492177],
    [-1.057869, -1.059426, -0.892772, -1.006471, -0.727674],
]
RELEASED_DISCOUNTED_RETURNS = [
    [1.602066, 1.269374, 1.146629, 1.504074],
    [-1.208926, -0.718148],
    [0.949374, 0.791074, 0.615185],
    [-1.050119, -1.134289, -0.931515, -1.200037, -0.807037],
]


def advantages_of(process: Tensor, outcomes: Tensor, is_response: Tensor, group_ids: Tensor, **changes: Any) -> AdvantageResult:
    options: dict[str, Any] = {
        "loo": "paper", "process_weight": 1.0, "outcome_weight": 1.0, "process_discount": 1.0, "outcome_discount": 1.0,
        "normalise": True, "normalisation_floor": 1e-3, "whiten": True,
    }  # fmt: skip
    return rloo_advantages(process, outcomes, is_response, group_ids, **(options | changes))


def example(**changes: Any) -> AdvantageResult:
    return advantages_of(PROCESS, OUTCOMES, IS_RESPONSE, GROUP, **changes)


def assert_rows(values: Tensor, expected: Rows, is_response: Tensor = IS_RESPONSE) -> None:
    close(values, response_matrix(expected, is_response, dtype=values.dtype), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("loo", "expected"), [("paper", PAPER_PROCESS), ("released", RELEASED_PROCESS)])
def test_process_rewards_less_their_baseline(loo: LeaveOneOut, expected: Rows) -> None:
    normalised = normalise_by_largest_return(PROCESS, IS_RESPONSE, floor=1e-3)
    assert_rows(process_rewards_less_baseline(normalised, IS_RESPONSE, GROUP, loo=loo), expected)


@pytest.mark.parametrize(("loo", "expected"), [("paper", PAPER_RETURNS), ("released", RELEASED_RETURNS)])
def test_returns_of_the_worked_example(loo: LeaveOneOut, expected: Rows) -> None:
    result = example(loo=loo, whiten=False)
    assert_rows(result.advantages, expected)
    close(result.process_returns + result.outcome_returns, result.advantages)


@pytest.mark.parametrize(("loo", "expected"), [("paper", PAPER_ADVANTAGES), ("released", RELEASED_ADVANTAGES)])
def test_whitened_advantages_of_the_worked_example(loo: LeaveOneOut, expected: Rows) -> None:
    assert_rows(example(loo=loo).advantages, expected)


def test_process_rewards_can_be_discounted_alone() -> None:
    assert_rows(example(loo="released", process_discount=0.9, whiten=False).advantages, RELEASED_DISCOUNTED_RETURNS)


@pytest.mark.parametrize(("outcome_discount", "expected"), [(1.0, [2 / 3, 2 / 3, 2 / 3]), (0.5, [1 / 6, 1 / 3, 2 / 3])])
def test_the_outcome_is_earned_at_the_last_token(outcome_discount: float, expected: list[float]) -> None:
    result = example(outcome_discount=outcome_discount)
    assert ragged(result.outcome_returns, IS_RESPONSE)[2].tolist() == pytest.approx(expected)


def test_both_sources_are_weighted() -> None:
    result = example(process_weight=0.5, outcome_weight=3.0, whiten=False)
    close(result.advantages, 0.5 * result.process_returns + 3 * result.outcome_returns)
    plain = example(whiten=False)
    close(result.process_returns, plain.process_returns)
    close(example(process_weight=0.0, whiten=False).advantages, plain.outcome_returns)


def test_paper_and_released_agree_on_the_first_token() -> None:
    # They differ by (r_t - m_i) / (K - 1), which sums to zero over a response.
    paper, released = (ragged(example(loo=loo, whiten=False).process_returns, IS_RESPONSE) for loo in ("paper", "released"))
    for of_paper, of_released in zip(paper, released, strict=True):
        assert of_paper[0].item() == pytest.approx(of_released[0].item())


def test_without_normalisation_rewards_keep_their_size() -> None:
    # The siblings' mean token rewards are -0.5, 1/3 and -0.12.
    result = example(normalise=False, whiten=False)
    first = 1 - (-0.5 + 1 / 3 - 0.12) / 3
    assert (result.process_returns[0, 1] - result.process_returns[0, 2]).item() == pytest.approx(first)


def test_a_prm_that_equals_its_reference_leaves_outcomes_alone() -> None:
    result = advantages_of(PROCESS * 1e-7, OUTCOMES, IS_RESPONSE, GROUP, whiten=False)
    close(result.advantages, result.outcome_returns, atol=1e-5, rtol=0)


def test_each_rollout_is_compared_with_the_mean_of_its_siblings() -> None:
    # In group 4 the siblings of the first earned 0, 1, 1; group 2 has two rollouts.
    values = torch.tensor([1.0, 10.0, 0.0, 1.0, 20.0, 1.0])
    means = leave_one_out_mean(values, torch.tensor([4, 2, 4, 4, 2, 4]))
    close(means, torch.tensor([2 / 3, 20.0, 1.0, 2 / 3, 10.0, 2 / 3]))


def test_a_value_is_put_on_the_last_response_token() -> None:
    is_response = torch.tensor([[False, True, True, False], [True, False, False, False], [False, False, False, False]])
    placed = at_last_token(torch.tensor([3.0, 4.0, 5.0]), is_response)
    assert placed.tolist() == [[0, 0, 3, 0], [4, 0, 0, 0], [0, 0, 0, 0]]


def test_a_group_of_one_is_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"group 8 has 1 rollout.* set sampling\.group_size to 2 or more"):
        advantages_of(PROCESS[:3], OUTCOMES[:3], IS_RESPONSE[:3], torch.tensor([5, 8, 5]))


@pytest.mark.parametrize("width", [0, 4])
@pytest.mark.parametrize("loo", ["paper", "released"])
def test_an_empty_batch_gives_an_empty_result(width: int, loo: LeaveOneOut) -> None:
    empty = torch.zeros(0, width)
    result = advantages_of(empty, torch.zeros(0), empty.bool(), torch.zeros(0, dtype=torch.int64), loo=loo)
    assert result.advantages.shape == result.process_returns.shape == result.outcome_returns.shape == (0, width)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_have_the_type_of_the_rewards(dtype: torch.dtype) -> None:
    result = advantages_of(PROCESS.to(dtype), OUTCOMES.to(dtype), IS_RESPONSE, GROUP)
    assert result.advantages.dtype == result.process_returns.dtype == result.outcome_returns.dtype == dtype
    close(result.advantages, example().advantages.to(dtype), atol=1e-6, rtol=0)


@dataclass(frozen=True, kw_only=True)
class Case:
    """Groups of random sizes, their rows in random order."""

    rewards: Rows
    outcomes: list[float]
    group_ids: list[int]
    prompt_lengths: list[int]
    options: dict[str, Any]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    sizes = draw(st.lists(st.integers(2, 4), min_size=1, max_size=3))
    names = draw(st.lists(st.integers(0, 10**9), min_size=len(sizes), max_size=len(sizes), unique=True))
    group_ids = draw(st.permutations([name for name, size in zip(names, sizes, strict=True) for _ in range(size)]))
    reward = st.floats(-2, 2, width=32)
    return Case(
        rewards=[draw(st.lists(reward, min_size=1, max_size=5)) for _ in group_ids],
        outcomes=[draw(st.sampled_from([0.0, 0.25, 0.5, 1.0])) for _ in group_ids],
        group_ids=list(group_ids),
        prompt_lengths=[draw(st.integers(1, 3)) for _ in group_ids],
        options={
            "loo": draw(st.sampled_from(["paper", "released"])),
            "process_weight": draw(st.sampled_from([0.0, 1.0, 2.5])),
            "outcome_weight": draw(st.sampled_from([0.5, 1.0])),
            "process_discount": draw(st.sampled_from([0.0, 0.9, 1.0])),
            "outcome_discount": draw(st.sampled_from([0.8, 1.0])),
            "normalise": draw(st.booleans()),
            "whiten": draw(st.booleans()),
        },
    )


def run(case: Case, *, order: list[int] | None = None, extra_columns: int = 0) -> Rows:
    """Advantages of each response, in the case's own order, with rows laid out in `order` and padded further."""
    rows = order if order is not None else list(range(len(case.rewards)))
    width = 8 + extra_columns
    spans = [(case.prompt_lengths[row], case.prompt_lengths[row] + len(case.rewards[row])) for row in rows]
    is_response = torch.tensor([[start <= token < end for token in range(width)] for start, end in spans])
    process = response_matrix([case.rewards[row] for row in rows], is_response, dtype=torch.float64)
    outcomes = torch.tensor([case.outcomes[row] for row in rows], dtype=torch.float64)
    garbage = process.masked_fill(~is_response, float("nan"))
    result = advantages_of(garbage, outcomes, is_response, torch.tensor([case.group_ids[row] for row in rows]), **case.options)
    assert not result.advantages[~is_response].any()
    by_row = dict(zip(rows, ragged(result.advantages, is_response), strict=True))
    return [by_row[row].tolist() for row in range(len(rows))]


def slowly(case: Case) -> Rows:
    """The same in plain Python, one sum at a time."""
    rewards, options = case.rewards, case.options
    if options["normalise"]:
        largest = max(abs(sum(row[t:])) for row in rewards for t in range(len(row)))
        rewards = rewards if largest < 1e-3 else [[reward / (largest + 1e-6) for reward in row] for row in rewards]
    result: Rows = []
    for i, row in enumerate(rewards):
        siblings = [j for j in range(len(rewards)) if case.group_ids[j] == case.group_ids[i] and j != i]
        means = [sum(rewards[j]) / len(rewards[j]) for j in siblings]
        if options["loo"] == "paper":
            process = [reward - sum(means) / len(siblings) for reward in row]
        else:
            own = sum(row) / len(row)
            process = [(len(siblings) + 1) / len(siblings) * reward - (sum(means) + own) / len(siblings) for reward in row]
        outcome = [0.0] * (len(row) - 1) + [case.outcomes[i] - sum(case.outcomes[j] for j in siblings) / len(siblings)]
        result.append([0.0] * len(row))
        for t in range(len(row)):
            for s in range(t, len(row)):
                result[i][t] += options["process_weight"] * options["process_discount"] ** (s - t) * process[s]
                result[i][t] += options["outcome_weight"] * options["outcome_discount"] ** (s - t) * outcome[s]
    if not options["whiten"]:
        return result
    every = [value for row in result for value in row]
    mean = sum(every) / len(every)
    variance = sum((value - mean) ** 2 for value in every) / (len(every) - 1)
    return [[(value - mean) / (variance + 1e-8) ** 0.5 for value in row] for row in result]


def assert_same(left: Rows, right: Rows) -> None:
    for of_left, of_right in zip(left, right, strict=True):
        assert of_left == pytest.approx(of_right, abs=1e-7, rel=1e-6)


@settings(deadline=None, max_examples=80)
@given(cases())
def test_advantages_equal_those_of_the_slow_implementation(case: Case) -> None:
    assert_same(run(case), slowly(case))


@settings(deadline=None, max_examples=40)
@given(cases(), st.data())
def test_row_order_and_padding_change_nothing(case: Case, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(case.rewards))))
    assert_same(run(case, order=order, extra_columns=data.draw(st.integers(0, 3))), run(case))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(-10, 10), min_size=2, max_size=8))
def test_outcome_advantages_of_a_group_sum_to_zero(rewards: list[float]) -> None:
    values = torch.tensor(rewards, dtype=torch.float64)
    total = (values - leave_one_out_mean(values, torch.zeros(len(rewards), dtype=torch.int64))).sum().item()
    assert total == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("whiten", [True, False])
def test_single_token_responses(whiten: bool) -> None:
    # Process rewards 1 and 0 in [-1, 1] after normalisation, outcomes 1 and 0: +-(1 + 1), whitened to +-1/sqrt(2).
    ones = torch.ones(2, 1, dtype=torch.bool)
    process, outcomes = torch.tensor([[1.0], [0.0]]), torch.tensor([1.0, 0.0])
    result = advantages_of(process, outcomes, ones, torch.tensor([0, 0]), whiten=whiten)
    size = 0.5**0.5 if whiten else 2.0
    close(result.advantages, torch.tensor([[size], [-size]]), atol=1e-5, rtol=0)
