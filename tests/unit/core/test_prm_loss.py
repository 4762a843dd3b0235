"""The PRM's cross-entropy on outcomes and its accuracy."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from golden import slow_reference as slow
from oprime.core import prm_losses
from oprime.core.implicit_reward import sequence_scores, token_process_rewards
from oprime.core.prm_accuracy import pairwise_accuracies, sign_matches
from oprime.core.prm_loss import GroupStatistics, PrmLoss, PrmTokens
from oprime.core.token_rows import response_matrix
from random_batches import Case, cases

close = torch.testing.assert_close
BETA = 0.05
LOG_RATIOS = [[1, 0.5, -0.5, 2], [-1, 0], [0.5, 0.5, 0], [0.2, -0.4, 0.6, -0.8, -0.2]]
IS_RESPONSE = torch.tensor([[False] + [token < len(row) for token in range(5)] for row in LOG_RATIOS])
Q = response_matrix(LOG_RATIOS, IS_RESPONSE, dtype=torch.float64)
SCORES = sequence_scores(BETA * Q, IS_RESPONSE)
OUTCOMES = torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64)


def double(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def tokens_of(scores: torch.Tensor, outcomes: torch.Tensor, group: GroupStatistics) -> PrmTokens:
    """Responses of one token each, whose reward is their score."""
    is_trained = torch.ones(len(scores), 1, dtype=torch.bool)
    return PrmTokens(process_rewards=scores[:, None], is_trained=is_trained, outcome_rewards=outcomes, group=group)


def cross_entropy(scores: torch.Tensor, outcomes: torch.Tensor) -> torch.Tensor:
    return with_defaults("ce").losses(tokens_of(scores, outcomes, {}))


def test_cross_entropy_of_the_worked_example() -> None:
    close(cross_entropy(SCORES, OUTCOMES), double(0.620957, 0.66846, 0.66846, 0.67826), atol=1e-6, rtol=0)
    assert cross_entropy(SCORES, OUTCOMES).mean().item() == pytest.approx(0.659034, abs=1e-6)


def test_fractional_outcomes_are_soft_labels() -> None:
    assert cross_entropy(SCORES, double(1, 0, 0.3, 0.6)).mean().item() == pytest.approx(0.672284, abs=1e-6)


def test_every_response_token_gets_the_gradient_of_its_response() -> None:
    prm = Q.clone().requires_grad_()
    rewards = token_process_rewards(prm, torch.zeros_like(Q), IS_RESPONSE, BETA)
    cross_entropy(sequence_scores(rewards, IS_RESPONSE), OUTCOMES).mean().backward()
    assert prm.grad is not None
    expected = double(-0.005782, 0.006094, -0.006094, 0.006156)[:, None].expand(-1, 6).where(IS_RESPONSE, 0.0)
    close(prm.grad, expected, atol=1e-6, rtol=0)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.floats(-30, 30), st.floats(0, 1)), min_size=1, max_size=8))
def test_the_gradient_is_probability_less_outcome(rows: list[tuple[float, float]]) -> None:
    scores = double(*(score for score, _ in rows)).requires_grad_()
    outcomes = double(*(outcome for _, outcome in rows))
    cross_entropy(scores, outcomes).mean().backward()
    assert scores.grad is not None
    close(scores.grad, (torch.sigmoid(scores.detach()) - outcomes) / len(rows))


def test_a_confident_mistake_keeps_its_gradient() -> None:
    # sigmoid(-200) is 0 in float32; a loss computed from it would be cut off, and its gradient lost.
    score = torch.tensor([-200.0], requires_grad=True)
    loss = cross_entropy(score, torch.tensor([1.0])).sum()
    loss.backward()
    assert loss.item() == pytest.approx(200.0)
    assert score.grad is not None
    assert score.grad.item() == pytest.approx(-1.0)


GROUP = torch.tensor([7, 7, 7, 7])
PAIR_LOSSES = ("dpo", "bon_acc", "bon_rm")


def with_defaults(loss: str) -> PrmLoss:
    return prm_losses.named(loss).with_settings({"beta": 10.0})


def statistics_of(loss: str, scores: torch.Tensor, outcomes: torch.Tensor, group_ids: torch.Tensor) -> GroupStatistics:
    statistics = with_defaults(loss).statistics
    return {} if statistics is None else statistics(scores, outcomes, group_ids)


@pytest.mark.parametrize(
    ("loss", "weights", "total"),
    [("dpo", [1, 1, 1, 1], 4 * 0.625757), ("bon_acc", [4, 0.5, 4, 0.5], 5.632857), ("bon_rm", [4, 0.0625, 1.6875, 0.5], 3.860007)],
)
def test_pair_losses_of_the_worked_example(loss: str, weights: list[float], total: float) -> None:
    statistics = statistics_of(loss, SCORES, OUTCOMES, GROUP)
    close(statistics.get("weights", double(1, 1, 1, 1)), double(*weights))
    losses = with_defaults(loss).losses(tokens_of(SCORES, OUTCOMES, statistics))
    close(losses / double(*weights), double(0.602653, 0.620957, 0.649159, 0.630258), atol=1e-6, rtol=0)
    # The released port adds them up; the step's loss here is their mean.
    assert losses.sum().item() == pytest.approx(total, abs=4e-6)


def test_fractional_outcomes_are_compared_with_lower_ones_above_a_half_and_with_higher_ones_below() -> None:
    # 0.6 is compared with 0.3 and 0.1, 0.3 with 0.6; 0.5 says neither and sends no gradient.
    scores = double(1, 2, 4, 8).requires_grad_()
    outcomes = double(0.6, 0.3, 0.1, 0.5)
    statistics = statistics_of("dpo", scores, outcomes, GROUP)
    assert statistics["others"][:3].tolist() == [pytest.approx((2 + 4 + 8) / 3), pytest.approx((1 + 8) / 2), pytest.approx((1 + 2 + 8) / 3)]
    prm_losses.named("dpo").losses(tokens_of(scores, outcomes, statistics)).sum().backward()
    assert scores.grad is not None
    assert scores.grad[0] < 0 < scores.grad[1]
    assert scores.grad[3] == 0


def test_without_opponents_a_rollout_is_compared_with_0() -> None:
    statistics = statistics_of("dpo", double(3, 5), double(1, 1), torch.tensor([1, 1]))
    assert statistics["others"].tolist() == [0, 0]


def test_the_other_side_of_a_pair_gets_no_gradient_from_it() -> None:
    scores = SCORES.clone().requires_grad_()
    statistics = statistics_of("bon_rm", scores, OUTCOMES, GROUP)
    assert not statistics["others"].requires_grad
    assert not statistics["weights"].requires_grad


@pytest.mark.parametrize("loss", PAIR_LOSSES)
@settings(max_examples=40)
@given(case=cases(smallest_group=1))
def test_pair_losses_equal_their_slow_implementation(loss: str, case: Case) -> None:
    scores = [sum(row) for row in case.numbers[0]]
    statistics = statistics_of(loss, double(*scores), case.outcome_rewards, case.ids)
    ours = with_defaults(loss).losses(tokens_of(double(*scores), case.outcome_rewards, statistics)).tolist()
    for i, score in enumerate(scores):
        expected = slow.pair_loss(score, case.outcomes[i], slow.pair_other(scores, case.outcomes, case.group_ids, i))
        if loss != "dpo":
            expected *= slow.best_of_k_weight(case.outcomes if loss == "bon_acc" else scores, case.group_ids, i)
        assert ours[i] == pytest.approx(expected, abs=1e-9)


@settings(max_examples=40)
@given(case=cases(smallest_group=1))
def test_cross_entropy_equals_its_slow_implementation(case: Case) -> None:
    scores = [sum(row) for row in case.numbers[0]]
    ours = cross_entropy(double(*scores), case.outcome_rewards).tolist()
    assert ours == pytest.approx([slow.cross_entropy(*pair) for pair in zip(scores, case.outcomes, strict=True)])


@pytest.mark.parametrize("loss", prm_losses.names())
@pytest.mark.parametrize("balanced", [False, True])
def test_prm_losses_have_the_gradient_of_finite_differences(loss: str, balanced: bool) -> None:
    outcomes = double(1, 0, 0.3, 0.6)
    # The statistics are gathered before the update: they do not move with the log-probs.
    group = {**statistics_of(loss, SCORES, outcomes, GROUP), **balance_of(loss, outcomes, GROUP, on=balanced)}

    def mean_loss(prm_logprobs: torch.Tensor) -> torch.Tensor:
        rewards = token_process_rewards(prm_logprobs, torch.zeros_like(Q), IS_RESPONSE, BETA)
        tokens = PrmTokens(process_rewards=rewards, is_trained=IS_RESPONSE, outcome_rewards=outcomes, group=group)
        return with_defaults(loss).losses(tokens).mean()

    assert torch.autograd.gradcheck(mean_loss, Q.clone().requires_grad_())


@pytest.mark.parametrize("loss", prm_losses.names())
def test_an_empty_micro_batch_has_no_losses_and_still_a_gradient(loss: str) -> None:
    rewards = torch.zeros(0, 0, dtype=torch.float64, requires_grad=True)
    nothing = torch.zeros(0, dtype=torch.float64)
    group = {**statistics_of(loss, nothing, nothing, nothing.long()), **balance_of(loss, nothing, nothing.long(), on=True)}
    tokens = PrmTokens(process_rewards=rewards, is_trained=torch.zeros(0, 0, dtype=torch.bool), outcome_rewards=nothing, group=group)
    losses = with_defaults(loss).losses(tokens)
    assert losses.shape == (0,)
    losses.sum().backward()
    assert rewards.grad is not None


@pytest.mark.parametrize("loss", prm_losses.names())
def test_what_stands_outside_the_responses_changes_no_loss(loss: str) -> None:
    group = {**statistics_of(loss, SCORES, OUTCOMES, GROUP), **balance_of(loss, OUTCOMES, GROUP, on=True)}
    tokens = PrmTokens(process_rewards=BETA * Q, is_trained=IS_RESPONSE, outcome_rewards=OUTCOMES, group=group)
    clean = with_defaults(loss).losses(tokens)
    dirty = with_defaults(loss).losses(replace(tokens, process_rewards=(BETA * Q).masked_fill(~IS_RESPONSE, math.nan)))
    assert torch.equal(clean, dirty)


# Prefix values and balancing


def balance_of(loss: str, outcomes: torch.Tensor, group_ids: torch.Tensor, *, on: bool) -> GroupStatistics:
    balance = prm_losses.named(loss).with_settings({"beta": 10.0, "difficulty_offset": on, "rarity_weight": on}).balance
    return {} if balance is None else balance(outcomes, group_ids)


PREFIX_LOG_RATIOS = [[0.30, 0.70, 0.20], [0.10, -0.20], [-0.40, 0.10, -0.60, 0.05], [0.05]]
PREFIX_OUTCOMES = double(1, 1, 0, 1)


def prefix_losses(loss: str, beta: float, *, balanced: bool, margin: float = 5.0) -> torch.Tensor:
    is_trained = torch.tensor([[False] + [token < len(row) for token in range(4)] for row in PREFIX_LOG_RATIOS])
    tokens = PrmTokens(
        process_rewards=beta * response_matrix(PREFIX_LOG_RATIOS, is_trained, dtype=torch.float64),
        is_trained=is_trained,
        outcome_rewards=PREFIX_OUTCOMES,
        group=balance_of(loss, PREFIX_OUTCOMES, GROUP, on=balanced),
    )
    return prm_losses.named(loss).with_settings({"beta": beta, "margin": margin}).losses(tokens)


@pytest.mark.parametrize(
    ("loss", "beta", "balanced", "expected", "mean"),
    [
        ("prefix_value", 10, False, [1.377779, 4.761114, 2.474956, 4.511048], 3.281224),
        ("prefix_value", 10, True, [0.483306, 2.456151, 6.978945, 2.289448], 3.051962),
        ("ce", 0.05, False, [0.663597, 0.69565, 0.672123, 0.691898], 0.680817),
        ("ce", 0.05, True, [0.182011, 0.192623, 2.70918, 0.191372], 0.818796),
    ],
)
def test_prefix_values_and_balancing_of_the_worked_example(
    loss: str, beta: float, balanced: bool, expected: list[float], mean: float
) -> None:
    losses = prefix_losses(loss, beta, balanced=balanced)
    close(losses, double(*expected), atol=1e-6, rtol=0)
    assert losses.mean().item() == pytest.approx(mean, abs=1e-6)


def test_balancing_of_the_worked_example() -> None:
    # Three of four are right: u = 3/4, log 3 = 1.0986; rarities 1/4, 1/4, 3/4, 1/4 have a mean of 3/8.
    group = balance_of("ce", PREFIX_OUTCOMES, GROUP, on=True)
    close(group["offsets"], double(*[math.log(3)] * 4))
    close(group["weights"], double(2 / 3, 2 / 3, 2, 2 / 3))


@pytest.mark.parametrize("outcome", [0.0, 1.0])
def test_a_group_of_one_outcome_weighs_1_and_is_foretold_almost_surely(outcome: float) -> None:
    group = balance_of("ce", double(outcome, outcome), torch.tensor([5, 5]), on=True)
    close(group["weights"], double(1, 1))
    assert group["offsets"].abs().tolist() == pytest.approx([13.8155] * 2, abs=1e-4)


@settings(max_examples=40)
@given(case=cases(smallest_group=1))
def test_prefix_values_and_balancing_equal_their_slow_implementation(case: Case) -> None:
    group = balance_of("prefix_value", case.outcome_rewards, case.ids, on=True)
    rewards = case.matrix(case.numbers[0])
    tokens = PrmTokens(process_rewards=rewards, is_trained=case.is_trained, outcome_rewards=case.outcome_rewards, group=group)
    ours = with_defaults("prefix_value").losses(tokens).tolist()
    for i, row in enumerate(case.numbers[0]):
        offset, weight = slow.balance(case.outcomes, case.group_ids, i)
        assert ours[i] == pytest.approx(slow.prefix_value_loss(row, case.outcomes[i], 5.0, offset, weight), abs=1e-9)


@pytest.mark.parametrize("outcome", [-0.1, 1.5, math.nan])
def test_an_outcome_outside_0_and_1_is_refused(outcome: float) -> None:
    with pytest.raises(ValueError, match=rf"outcome reward {outcome} is outside \[0, 1\]"):
        cross_entropy(double(0, 0), double(1, outcome))


def test_accuracies_of_the_worked_example_are_perfect() -> None:
    assert sign_matches(SCORES, OUTCOMES).tolist() == [1, 1, 1, 1]
    assert pairwise_accuracies(SCORES, OUTCOMES, torch.tensor([7, 7, 7, 7])).tolist() == [1.0]


def test_accuracies_with_ties_and_fractions() -> None:
    # Pairs with their weight: (0,1) tie, half of 1; (0,2) right 1/2; (0,3) wrong 1; (1,2) wrong 1/2; (2,3) wrong 1/2. 1 / 3.5 = 2/7.
    scores, outcomes = double(1, 1, 0, 2), double(1, 0, 0.5, 0)
    assert pairwise_accuracies(scores, outcomes, torch.zeros(4, dtype=torch.int64)).tolist() == pytest.approx([0.285714], abs=1e-6)
    assert sign_matches(scores, outcomes).tolist() == [1, 0, 1, 0]  # an outcome of 1/2 asks for a score of 0
    assert sign_matches(double(0, 0, 0), double(0.5, 1, 0)).tolist() == [1, 0.5, 0.5]


@pytest.mark.parametrize("outcomes", [(0.0, 1.0, 1.0), (1.0, 0.0, 0.0), (1.0, 0.0, 0.3)])
def test_a_prm_that_tells_nothing_apart_is_as_good_as_a_coin_in_any_order_of_rollouts(outcomes: tuple[float, ...]) -> None:
    same = torch.zeros(3, dtype=torch.float64)
    assert sign_matches(same, double(*outcomes)).mean().item() == 0.5
    assert pairwise_accuracies(same, double(*outcomes), torch.zeros(3, dtype=torch.int64)).tolist() == [0.5]


def test_only_siblings_are_compared_wherever_they_stand() -> None:
    # Group 3 holds rows 0 and 2 (right), group 1 rows 1 and 4 (wrong), group 2 row 3 alone.
    scores, outcomes = double(5, 1, 4, 0, 2), double(1, 1, 0, 1, 0)
    assert pairwise_accuracies(scores, outcomes, torch.tensor([3, 1, 3, 2, 1])).tolist() == [0.0, 0.5, 1.0]


def test_a_group_of_equal_outcomes_says_nothing() -> None:
    assert pairwise_accuracies(double(1, 2, 3), double(1, 1, 1), torch.zeros(3, dtype=torch.int64)).tolist() == [0.5]


def test_no_rollouts_no_accuracies() -> None:
    assert pairwise_accuracies(double(), double(), torch.zeros(0, dtype=torch.int64)).shape == (0,)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(-5, 5), st.sampled_from([0.0, 0.25, 0.5, 1.0])), min_size=1, max_size=6))
def test_pairwise_accuracy_equals_the_sum_over_pairs(rows: list[tuple[int, float]]) -> None:
    right = total = 0.0
    for first in range(len(rows)):
        for second in range(first + 1, len(rows)):
            gain = rows[second][1] - rows[first][1]
            total += abs(gain)
            if rows[first][0] == rows[second][0]:
                right += abs(gain) / 2
            elif (rows[first][0] < rows[second][0]) == (gain > 0):
                right += abs(gain)
    expected = right / total if total else 0.5
    scores, outcomes = double(*(row[0] for row in rows)), double(*(row[1] for row in rows))
    assert pairwise_accuracies(scores, outcomes, torch.zeros(len(rows), dtype=torch.int64)).tolist() == pytest.approx([expected])
