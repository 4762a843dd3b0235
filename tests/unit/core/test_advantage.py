"""Every estimator: worked examples, slow second implementations, and laws."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from golden import slow_reference as slow
from oprime.core import estimators
from oprime.core.advantage import Choices, Estimate, GreedyRewards, Rewards, SourceReturns, weighted, whitening_factor
from oprime.core.estimators.grpo import grpo
from oprime.core.estimators.prm_value import prm_value
from oprime.core.estimators.reinforce import reinforce
from oprime.core.estimators.remax import remax
from oprime.core.estimators.rloo import LeaveOneOut, process_rewards_less_baseline, rloo
from oprime.core.groups import leave_one_out_mean
from oprime.core.implicit_reward import largest_returns, normalisation_scale, sequence_process_rewards
from oprime.core.masked import at_last_token, last_token
from oprime.core.token_rows import ragged, response_matrix
from random_batches import Case, Rows, cases
from rollouts import moments_of

close = torch.testing.assert_close

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


def advantages_of(process: Tensor, outcomes: Tensor, is_trained: Tensor, group_ids: Tensor, **changes: Any) -> Estimate:
    """Leave-one-out advantages with the defaults of the paper."""
    options: dict[str, Any] = {
        "loo": "paper", "process_weight": 1.0, "outcome_weight": 1.0, "process_discount": 1.0, "outcome_discount": 1.0,
        "normalise": True, "whiten": True,
    } | changes  # fmt: skip
    if options["normalise"]:
        process = process / normalisation_scale(largest_returns(process, is_trained), floor=1e-3)
    rewards = Rewards(process=process, rewarded=is_trained, outcome=outcomes, is_trained=is_trained, group_ids=group_ids)
    names = ("process_weight", "outcome_weight", "process_discount", "outcome_discount")
    result = rloo(rewards, Choices(**{name: options[name] for name in names}), loo=options["loo"])
    return result.whitened(is_trained, moments_of(result.advantages, is_trained)) if options["whiten"] else result


def log_ratios(*, beta: float) -> Rewards:
    """The worked example without normalisation."""
    return Rewards(process=beta * PROCESS, rewarded=IS_RESPONSE, outcome=OUTCOMES, is_trained=IS_RESPONSE, group_ids=GROUP)


def example(**changes: Any) -> Estimate:
    return advantages_of(PROCESS, OUTCOMES, IS_RESPONSE, GROUP, **changes)


def assert_rows(values: Tensor, expected: Rows, is_trained: Tensor = IS_RESPONSE) -> None:
    close(values, response_matrix(expected, is_trained, dtype=values.dtype), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("loo", "expected"), [("paper", PAPER_PROCESS), ("released", RELEASED_PROCESS)])
def test_process_rewards_less_their_baseline(loo: LeaveOneOut, expected: Rows) -> None:
    process = PROCESS / normalisation_scale(largest_returns(PROCESS, IS_RESPONSE), floor=1e-3)
    rewards = Rewards(process=process, rewarded=IS_RESPONSE, outcome=OUTCOMES, is_trained=IS_RESPONSE, group_ids=GROUP)
    assert_rows(process_rewards_less_baseline(rewards, loo=loo), expected)


@pytest.mark.parametrize(("loo", "expected"), [("paper", PAPER_RETURNS), ("released", RELEASED_RETURNS)])
def test_returns_of_the_worked_example(loo: LeaveOneOut, expected: Rows) -> None:
    result = example(loo=loo, whiten=False)
    assert_rows(result.advantages, expected)
    close(result.sources.process + result.sources.outcome, result.advantages)


@pytest.mark.parametrize(("loo", "expected"), [("paper", PAPER_ADVANTAGES), ("released", RELEASED_ADVANTAGES)])
def test_whitened_advantages_of_the_worked_example(loo: LeaveOneOut, expected: Rows) -> None:
    assert_rows(example(loo=loo).advantages, expected)


def test_process_rewards_can_be_discounted_alone() -> None:
    assert_rows(example(loo="released", process_discount=0.9, whiten=False).advantages, RELEASED_DISCOUNTED_RETURNS)


@pytest.mark.parametrize(("outcome_discount", "expected"), [(1.0, [2 / 3, 2 / 3, 2 / 3]), (0.5, [1 / 6, 1 / 3, 2 / 3])])
def test_the_outcome_is_earned_at_the_last_token(outcome_discount: float, expected: list[float]) -> None:
    result = example(outcome_discount=outcome_discount)
    assert ragged(result.sources.outcome, IS_RESPONSE)[2].tolist() == pytest.approx(expected)


def test_both_sources_are_weighted() -> None:
    result = example(process_weight=0.5, outcome_weight=3.0, whiten=False)
    close(result.advantages, 0.5 * result.sources.process + 3 * result.sources.outcome)
    plain = example(whiten=False)
    close(result.sources.process, plain.sources.process)
    close(example(process_weight=0.0, whiten=False).advantages, plain.sources.outcome)


def test_paper_and_released_agree_on_the_first_token() -> None:
    # They differ by (r_t - m_i) / (K - 1), which sums to zero over a response.
    paper, released = (ragged(example(loo=loo, whiten=False).sources.process, IS_RESPONSE) for loo in ("paper", "released"))
    for of_paper, of_released in zip(paper, released, strict=True):
        assert of_paper[0].item() == pytest.approx(of_released[0].item())


def test_without_normalisation_rewards_keep_their_size() -> None:
    # The siblings' mean token rewards are -0.5, 1/3 and -0.12.
    result = example(normalise=False, whiten=False)
    first = 1 - (-0.5 + 1 / 3 - 0.12) / 3
    assert (result.sources.process[0, 1] - result.sources.process[0, 2]).item() == pytest.approx(first)


def test_a_prm_that_equals_its_reference_leaves_outcomes_alone() -> None:
    result = advantages_of(PROCESS * 1e-7, OUTCOMES, IS_RESPONSE, GROUP, whiten=False)
    close(result.advantages, result.sources.outcome, atol=1e-5, rtol=0)


GRPO_ADVANTAGES = [
    [5.538145, 3.909657, 3.202085, 4.336348],
    [-3.134551, -1.079371],
    [2.067822, 1.360251, 0.65268],
    [-3.037855, -3.192876, -2.242797, -3.134551, -1.447738],
]
REINFORCE_ADVANTAGES = [[1.15, 1.1, 1.075, 1.1], [-0.05, 0.0], [1.05, 1.025, 1.0], [-0.03, -0.04, -0.02, -0.05, -0.01]]
VALUE_ADVANTAGES = [[1, 0.95, 0.925, 0.95], [0, 0.05], [1, 0.975, 0.95], [0, -0.01, 0.01, -0.02, 0.02]]


def test_grpo_advantages_of_the_worked_example() -> None:
    sources = grpo(log_ratios(beta=0.05), Choices(), divide_by_std=True, standardised="responses").sources
    assert_rows(sources.process + sources.outcome, GRPO_ADVANTAGES)


def test_without_the_division_grpo_only_subtracts_the_groups_mean() -> None:
    # Dr. GRPO. Outcomes 1, 0, 1, 0 are 1/2 from their mean. Mean token rewards are 3/4, -1/2, 1/3, -3/25: on average 139/1200.
    sources = grpo(log_ratios(beta=1.0), Choices(), divide_by_std=False, standardised="responses").sources
    assert_rows(sources.outcome, [[0.5] * 4, [-0.5] * 2, [0.5] * 3, [-0.5] * 5])
    mean = 139 / 1200
    assert_rows(sources.process[1:3], [[-1 - 2 * mean, -mean], [1 - 3 * mean, 0.5 - 2 * mean, -mean]], IS_RESPONSE[1:3])


def test_grpo_over_tokens_is_the_temporal_difference_advantage_of_prefix_values() -> None:
    # Two siblings with token rewards 1, 3 and -1, 1, 1: mean 1, deviation sqrt(8 / 4). Discount gamma lambda = 1/2.
    is_trained = torch.tensor([[True, True, False], [True, True, True]])
    rewards = Rewards(
        process=torch.tensor([[1, 3, 0], [-1, 1, 1]], dtype=torch.float64),
        rewarded=is_trained,
        outcome=torch.tensor([1, 0], dtype=torch.float64),
        is_trained=is_trained,
        group_ids=torch.tensor([4, 4]),
    )
    scaled, centred = (
        grpo(rewards, Choices(process_discount=0.5), divide_by_std=divide, standardised="tokens").sources for divide in (True, False)
    )
    expected = torch.tensor([[1, 2, 0], [-2, 0, 0]], dtype=torch.float64)
    close(centred.process, expected)
    close(scaled.process, expected / 2**0.5)


def test_grpo_does_not_blow_up_the_differences_of_siblings_that_agree() -> None:
    # Mean token rewards of 1e-9 and -1e-9 deviate by far less than the floor of 1e-4.
    rewards = Rewards(
        process=torch.tensor([[1e-9], [-1e-9]], dtype=torch.float64),
        rewarded=torch.ones(2, 1, dtype=torch.bool),
        outcome=torch.tensor([0.5, 0.5], dtype=torch.float64),
        is_trained=torch.ones(2, 1, dtype=torch.bool),
        group_ids=torch.tensor([0, 0]),
    )
    sources = grpo(rewards, Choices(), divide_by_std=True, standardised="responses").sources
    assert sources.process[:, 0].tolist() == pytest.approx([1e-5, -1e-5])
    assert sources.outcome.tolist() == [[0.0], [0.0]]


def test_reinforce_advantages_of_the_worked_example() -> None:
    sources = reinforce(log_ratios(beta=0.05), Choices()).sources
    assert_rows(sources.process + sources.outcome, REINFORCE_ADVANTAGES)


def test_the_prm_as_value_model_gives_the_advantages_of_the_worked_example() -> None:
    sources = prm_value(log_ratios(beta=0.05), Choices()).sources
    assert_rows(-sources.process, [[0, 0.05, 0.075, 0.05], [0, -0.05], [0, 0.025, 0.05], [0, 0.01, -0.01, 0.02, -0.02]])
    assert_rows(sources.process + sources.outcome, VALUE_ADVANTAGES)


def test_remax_compares_with_the_greedy_response() -> None:
    # Two tokens of process reward 1 each, greedy mean 0.5: 2 * 0.5, then 0.5. Outcome 1 against 0.25.
    rewards = Rewards(
        process=torch.ones(1, 2), rewarded=torch.ones(1, 2, dtype=torch.bool), outcome=torch.ones(1),
        is_trained=torch.ones(1, 2, dtype=torch.bool), group_ids=torch.tensor([3]),
        greedy=GreedyRewards(outcome=torch.tensor([0.25]), process_mean=torch.tensor([0.5])),
    )  # fmt: skip
    sources = remax(rewards, Choices()).sources
    assert sources.process.tolist() == [[1.0, 0.5]]
    assert sources.outcome.tolist() == [[0.75, 0.75]]


@pytest.mark.parametrize("estimator", [reinforce, prm_value])
def test_estimators_without_siblings_take_groups_of_one(estimator: Callable[[Rewards, Choices], Estimate]) -> None:
    rewards = Rewards(process=PROCESS, rewarded=IS_RESPONSE, outcome=OUTCOMES, is_trained=IS_RESPONSE, group_ids=torch.arange(4))
    assert estimator(rewards, Choices()).sources.outcome.isfinite().all()


def test_grpo_refuses_a_group_of_one() -> None:
    rewards = Rewards(process=PROCESS, rewarded=IS_RESPONSE, outcome=OUTCOMES, is_trained=IS_RESPONSE, group_ids=torch.arange(4))
    with pytest.raises(ValueError, match=r"group 0 has 1 rollout.* set sampling\.group_size to 2 or more"):
        grpo(rewards, Choices(), divide_by_std=True, standardised="responses")


RELEASED_PORT_RETURNS = [
    [9.977645, 3.316667, -0.011044, 3.327778],
    [-10.010978, -3.338889],
    [9.9832, 6.655489, 3.327778],
    [-6.027724, -7.355475, -4.683306, -8.677671, -3.338889],
]
RELEASED_PORT_ADVANTAGES = [
    [1.56239, 0.568148, 0.071442, 0.569806],
    [-1.421184, -0.425284],
    [1.563219, 1.066513, 0.569806],
    [-0.82663, -1.024814, -0.625957, -1.22217, -0.425284],
]


def test_the_released_port_computes_something_else_because_it_drops_the_end_token() -> None:
    # What others compute: the reward of every response's last token is lost, both sources are weighted 5.
    without_end = (0.05 * PROCESS).where(~last_token(IS_RESPONSE), 0.0)
    changes: dict[str, Any] = {"loo": "released", "process_weight": 5.0, "outcome_weight": 5.0}
    plain = advantages_of(without_end, OUTCOMES, IS_RESPONSE, GROUP, whiten=False, **changes)
    assert_rows(plain.advantages, RELEASED_PORT_RETURNS)
    assert_rows(advantages_of(without_end, OUTCOMES, IS_RESPONSE, GROUP, **changes).advantages, RELEASED_PORT_ADVANTAGES)
    assert not torch.allclose(plain.advantages, example(whiten=False, loo="released").advantages * 5, atol=0.1)


def test_each_rollout_is_compared_with_the_mean_of_its_siblings() -> None:
    # In group 4 the siblings of the first earned 0, 1, 1; group 2 has two rollouts.
    values = torch.tensor([1.0, 10.0, 0.0, 1.0, 20.0, 1.0])
    means = leave_one_out_mean(values, torch.tensor([4, 2, 4, 4, 2, 4]))
    close(means, torch.tensor([2 / 3, 20.0, 1.0, 2 / 3, 10.0, 2 / 3]))


def test_a_value_is_put_on_the_last_response_token() -> None:
    is_trained = torch.tensor([[False, True, True, False], [True, False, False, False], [False, False, False, False]])
    placed = at_last_token(torch.tensor([3.0, 4.0, 5.0]), is_trained)
    assert placed.tolist() == [[0, 0, 3, 0], [4, 0, 0, 0], [0, 0, 0, 0]]


def test_a_group_of_one_is_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"group 8 has 1 rollout.* set sampling\.group_size to 2 or more"):
        advantages_of(PROCESS[:3], OUTCOMES[:3], IS_RESPONSE[:3], torch.tensor([5, 8, 5]))


@pytest.mark.parametrize("width", [0, 4])
@pytest.mark.parametrize("loo", ["paper", "released"])
def test_an_empty_batch_gives_an_empty_result(width: int, loo: LeaveOneOut) -> None:
    empty = torch.zeros(0, width)
    result = advantages_of(empty, torch.zeros(0), empty.bool(), torch.zeros(0, dtype=torch.int64), loo=loo)
    assert result.advantages.shape == result.sources.process.shape == result.sources.outcome.shape == (0, width)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_have_the_type_of_the_rewards(dtype: torch.dtype) -> None:
    result = advantages_of(PROCESS.to(dtype), OUTCOMES.to(dtype), IS_RESPONSE, GROUP)
    assert result.advantages.dtype == result.sources.process.dtype == result.sources.outcome.dtype == dtype
    close(result.advantages, example().advantages.to(dtype), atol=1e-6, rtol=0)


ESTIMATORS = (
    "rloo paper",
    "rloo released",
    "reinforce",
    "grpo",
    "grpo unscaled",
    "grpo tokens",
    "reinforce_baseline",
    "remax",
    "prm_value",
)
DISCOUNTS = st.tuples(st.sampled_from([0.0, 0.9, 1.0]), st.sampled_from([0.8, 1.0]))


def tensor_returns(case: Case, estimator: str, granularity: str, discounts: tuple[float, float]) -> tuple[Rows, Rows]:
    """The estimator under test, on the case's first numbers as process rewards."""
    process, is_trained = case.matrix(case.numbers[0]), case.is_trained
    rewarded = is_trained
    if granularity == "sequence":
        process, rewarded = sequence_process_rewards(process, is_trained), last_token(is_trained)
    rewards = Rewards(
        process=process,
        rewarded=rewarded,
        outcome=case.outcome_rewards,
        is_trained=is_trained,
        group_ids=case.ids,
        greedy=GreedyRewards(outcome=greedy(case, 0), process_mean=greedy(case, 1)),
    )
    name, _, option = estimator.partition(" ")
    own = {"loo": option, "divide_by_std": option != "unscaled", "standardised": "tokens" if option == "tokens" else "responses"}
    choices = Choices(process_discount=discounts[0], outcome_discount=discounts[1])
    result = estimators.named(name).with_settings(own).estimate(rewards, choices).sources
    return case.rows_of(result.process), case.rows_of(result.outcome)


def greedy(case: Case, of: int) -> Tensor:
    """Outcome and mean process reward of a made-up greedy response to each prompt."""
    return torch.tensor([(group_id * 7 + of) % 5 / 4 for group_id in case.group_ids], dtype=torch.float64)


def slow_returns(case: Case, estimator: str, granularity: str, discounts: tuple[float, float]) -> tuple[Rows, Rows]:
    rewards, outcomes, ids = case.numbers[0], case.outcomes, case.group_ids
    if granularity == "sequence":
        rewards = slow.on_last_token(rewards)
    rewards_of = {
        "rloo paper": lambda i: slow.rloo(rewards, outcomes, ids, i, loo="paper", granularity=granularity, discounts=discounts),
        "rloo released": lambda i: slow.rloo(rewards, outcomes, ids, i, loo="released", granularity=granularity, discounts=discounts),
        "reinforce": lambda i: slow.reinforce(rewards, outcomes, i, discounts=discounts),
        "grpo": lambda i: slow.grpo(rewards, outcomes, ids, i, ddof=1, granularity=granularity, discounts=discounts),
        "grpo tokens": lambda i: slow.grpo_over_tokens(rewards, outcomes, ids, i, granularity=granularity, discounts=discounts),
        "reinforce_baseline": lambda i: slow.grpo(rewards, outcomes, ids, i, ddof=None, granularity=granularity, discounts=discounts),
        "grpo unscaled": lambda i: slow.grpo(rewards, outcomes, ids, i, ddof=None, granularity=granularity, discounts=discounts),
        "remax": lambda i: slow.remax(
            rewards, outcomes, greedy(case, 0).tolist(), greedy(case, 1).tolist(), i, granularity=granularity, discounts=discounts
        ),
        "prm_value": lambda i: slow.prm_value(rewards, outcomes, i, discounts=discounts),
    }[estimator]
    pairs = [rewards_of(i) for i in range(len(rewards))]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def assert_same(left: Rows, right: Rows) -> None:
    for of_left, of_right in zip(left, right, strict=True):
        assert of_left == pytest.approx(of_right, abs=1e-7, rel=1e-6)


@pytest.mark.parametrize("granularity", ["token", "sequence"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
@settings(max_examples=40)
@given(case=cases(), discounts=DISCOUNTS)
def test_every_estimator_equals_its_slow_implementation(
    estimator: str, granularity: str, case: Case, discounts: tuple[float, float]
) -> None:
    ours, theirs = tensor_returns(case, estimator, granularity, discounts), slow_returns(case, estimator, granularity, discounts)
    assert_same(ours[0], theirs[0])
    assert_same(ours[1], theirs[1])


@pytest.mark.parametrize("estimator", ESTIMATORS)
@settings(max_examples=20)
@given(case=cases(), data=st.data())
def test_the_order_of_rows_changes_nothing(estimator: str, case: Case, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(case.lengths))))
    process, outcome = tensor_returns(case, estimator, "token", (0.9, 1.0))
    shuffled = tensor_returns(case.reordered(list(order)), estimator, "token", (0.9, 1.0))
    assert_same(shuffled[0], [process[place] for place in order])
    assert_same(shuffled[1], [outcome[place] for place in order])


@pytest.mark.parametrize("whiten", [True, False])
@settings(max_examples=40)
@given(case=cases(numbers=2), weights=st.sampled_from([(0.0, 1.0), (1.0, 1.0), (2.5, 0.5)]))
def test_sources_are_weighted_added_and_whitened(whiten: bool, case: Case, weights: tuple[float, float]) -> None:
    process, outcome = (case.matrix(rows).nan_to_num(0.0) for rows in case.numbers)
    result = weighted(SourceReturns(process=process, outcome=outcome), Choices(process_weight=weights[0], outcome_weight=weights[1]))
    if whiten:
        result = result.whitened(case.is_trained, moments_of(result.advantages, case.is_trained))
    added = [
        [weights[0] * first + weights[1] * second for first, second in zip(one, other, strict=True)]
        for one, other in zip(*case.numbers, strict=True)
    ]
    ours, theirs = case.rows_of(result.advantages), slow.whitened(added) if whiten else added
    for one, other in zip(ours, theirs, strict=True):
        assert one == pytest.approx(other, abs=1e-5, rel=1e-6)  # equal values whiten to rounding noise / sqrt(1e-8)


@settings(max_examples=60)
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


@pytest.mark.parametrize(
    ("process", "outcome", "guard", "factor"),
    [(0.3, 0.5, 0.1, 1.0), (0.3, 0.0, 0.1, 0.0), (0.4, 0.01, 0.1, 0.25), (0.0, 0.0, 0.1, 1.0), (0.3, 0.0, 0.0, 1.0)],
)
def test_whitening_lifts_process_rewards_only_beside_outcomes_that_vary(
    process: float, outcome: float, guard: float, factor: float
) -> None:
    assert whitening_factor(process, outcome, guard=guard) == pytest.approx(factor)
