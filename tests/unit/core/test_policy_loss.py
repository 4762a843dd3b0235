"""The policy loss: clip, CISPO, GSPO, corrections for stale weights, KL and entropy."""

import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from golden import slow_reference as slow
from guide import example, one_more_file
from oprime.core import corrections, policy_losses
from oprime.core.aggregation import Aggregation, StepCounts, token_shares
from oprime.core.policy_loss import PolicyLossOptions, StepLoss, policy_loss, sums_of_nothing
from random_batches import Case, cases

close = torch.testing.assert_close
NAN = math.nan

PROXIMAL = torch.tensor([[-1, -0.5, -2], [-0.3, -1.2, NAN]], dtype=torch.float64)
POLICY = torch.tensor([[-0.7, -0.6, -2], [-0.6, -1, NAN]], dtype=torch.float64)
ADVANTAGES = torch.tensor([[1, -1, 0.5], [2, -0.5, NAN]], dtype=torch.float64)
MASK = torch.tensor([[True, True, True], [True, True, False]])
SHARES = MASK.double() / 5


def options_of(*, loss: str = "clip", correction: str = "token", **chosen: Any) -> PolicyLossOptions:
    """Values of own settings and of options, by name; the files' defaults for the rest."""
    options = {field.name: chosen[field.name] for field in fields(PolicyLossOptions) if field.name in chosen}
    return PolicyLossOptions(
        loss=policy_losses.named(loss).with_settings(chosen), correction=corrections.named(correction).with_settings(chosen), **options
    )


def loss_of(
    policy: Tensor, *, rows: slice = slice(None), behaviour: Tensor = PROXIMAL, shares: Tensor = SHARES, **options: Any
) -> StepLoss:
    return policy_loss(policy[rows], PROXIMAL[rows], behaviour[rows], ADVANTAGES[rows], MASK[rows], shares[rows], options_of(**options))


def one_token(log_ratio: float | Tensor, advantage: float, *, behaviour_gap: float = 0.0, **options: Any) -> StepLoss:
    """The loss of a single token whose proximal log-prob is -1."""
    start = torch.tensor([[-1.0]], dtype=torch.float64)
    advantages = torch.tensor([[advantage]], dtype=torch.float64)
    mask = torch.ones(1, 1, dtype=torch.bool)
    return policy_loss(start + log_ratio, start, start - behaviour_gap, advantages, mask, mask.double(), options_of(**options))


def test_loss_of_the_worked_example() -> None:
    # Ratios 1.349859, 0.904837, 1 | 0.740818, 1.221403; losses -1.2, 0.904837, -0.5 | -1.481636, 0.610701.
    result = loss_of(POLICY)
    assert result.loss.item() == pytest.approx(-0.33322, abs=1e-6)
    sums = result.sums
    assert sums.tokens == 5
    assert sums.loss == result.loss.item()
    assert sums.marked["clipped"] / sums.tokens == pytest.approx(0.2)
    assert sums.proximal_kl / sums.tokens == pytest.approx(-0.02)
    assert sums.surprisal == pytest.approx(0.7 + 0.6 + 2 + 0.6 + 1)
    assert sums.capped == 0
    assert sums.importance_weight == pytest.approx(5.0)


def test_float32_agrees() -> None:
    policy, proximal, advantages = POLICY.float(), PROXIMAL.float(), ADVANTAGES.float()
    result = policy_loss(policy, proximal, proximal, advantages, MASK, SHARES, options_of())
    assert result.loss.dtype == torch.float32
    assert result.loss.item() == pytest.approx(-0.33322, abs=1e-6)


@pytest.mark.parametrize("options", [{}, {"loss": "cispo"}, {"loss": "gspo"}, {"loss": "gspo", "gspo_gradient": "token"}], ids=str)
@pytest.mark.parametrize(("log_ratio", "advantage"), [(19.0, -1.0), (21.0, -1.0), (300.0, -1.0), (-21.0, 1.0), (-40.0, 1.0)])
def test_a_token_is_pulled_back_from_however_far_away(options: dict[str, Any], log_ratio: float, advantage: float) -> None:
    # A token that became much likelier is made less likely if it was bad, and one that was given up more likely if it was good.
    distance = torch.tensor(log_ratio, dtype=torch.float64, requires_grad=True)
    one_token(distance, advantage, **options).loss.backward()
    assert distance.grad is not None
    assert math.isfinite(distance.grad.item())
    assert distance.grad.item() * -advantage > 0
    # Beyond 20 nats the pull is that of 20 nats; CISPO's is that of its clipped ratio.
    if log_ratio > 20:
        assert distance.grad.item() == pytest.approx(1.2 if options.get("loss") == "cispo" else math.exp(20))


@pytest.mark.parametrize("log_ratio", [21.0, 300.0])
def test_clip_and_dual_clip_end_the_pull_on_a_token_that_is_far_away_as_on_a_near_one(log_ratio: float) -> None:
    for advantage, options in ((1.0, {}), (-1.0, {"dual_clip": 3.0})):
        distance = torch.tensor(log_ratio, dtype=torch.float64, requires_grad=True)
        one_token(distance, advantage, **options).loss.backward()
        assert distance.grad is not None
        assert distance.grad.item() == 0


def test_a_mean_of_micro_batch_means_would_be_something_else() -> None:
    means = [loss_of(POLICY, rows=slice(row, row + 1), shares=MASK.double() / tokens).loss.item() for row, tokens in ((0, 3), (1, 2))]
    assert sum(means) / 2 == pytest.approx(-0.350261, abs=1e-6)


@settings(max_examples=40)
@given(st.integers(0, 2))
def test_splitting_into_micro_batches_changes_neither_loss_nor_gradient(cut: int) -> None:
    whole, parts = POLICY.clone().requires_grad_(), POLICY.clone().requires_grad_()
    expected = loss_of(whole)
    expected.loss.backward()
    results = [loss_of(parts, rows=slice(0, cut)), loss_of(parts, rows=slice(cut, None))]
    total = results[0].loss + results[1].loss
    total.backward()
    close(total, expected.loss)
    close(parts.grad, whole.grad)
    added = [sum(values) for values in zip(*(result.sums.values() for result in results), strict=True)]
    assert added == pytest.approx(expected.sums.values())


def test_the_gradient_at_the_start_is_the_plain_policy_gradient() -> None:
    policy = PROXIMAL.clone().requires_grad_()
    loss_of(policy).loss.backward()
    assert policy.grad is not None
    close(policy.grad, (-ADVANTAGES / 5).where(MASK, 0.0))


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped"),
    [
        (1.5, 1.0, -1.3, True),
        (1.5, -1.0, 1.5, False),
        (0.5, 1.0, -0.5, False),
        (0.5, -1.0, 0.9, True),
        (1.25, 1.0, -1.25, False),
        (0.95, -1.0, 0.95, False),
    ],
)
def test_the_clip_has_two_sides_of_its_own(ratio: float, advantage: float, loss: float, clipped: bool) -> None:
    result = one_token(math.log(ratio), advantage, clip_low=0.1, clip_high=0.3)
    assert result.loss.item() == pytest.approx(loss)
    assert result.sums.marked["clipped"] == int(clipped)


@pytest.mark.parametrize(("gap", "weight", "capped"), [(math.log(1.5), 1.5, 0), (math.log(5), 2.0, 1), (-math.log(4), 0.25, 0)])
def test_stale_tokens_are_reweighted_up_to_the_cap(gap: float, weight: float, capped: int) -> None:
    result = one_token(0.0, 1.0, behaviour_gap=gap)
    assert result.loss.item() == pytest.approx(-weight)
    assert result.sums.importance_weight == pytest.approx(weight)
    assert result.sums.capped == capped


def test_the_importance_weight_carries_no_gradient() -> None:
    # With w = 1.5 and A = 3 the gradient is -w * A for the policy; the proximal policy's is w * A, through r alone
    # (through w as well, it would be 0).
    policy = torch.tensor([[-1.0]], dtype=torch.float64, requires_grad=True)
    behaviour = policy.detach() - math.log(1.5)
    advantages, mask = torch.tensor([[3.0]], dtype=torch.float64), torch.ones(1, 1, dtype=torch.bool)
    shares = mask.double()
    policy_loss(policy, policy.detach(), behaviour, advantages, mask, shares, options_of()).loss.backward()
    assert policy.grad is not None
    assert policy.grad.item() == pytest.approx(-4.5)
    proximal = policy.detach().clone().requires_grad_()
    policy_loss(policy.detach(), proximal, behaviour, advantages, mask, shares, options_of()).loss.backward()
    assert proximal.grad is not None
    assert proximal.grad.item() == pytest.approx(4.5)


def test_extreme_ratios_stay_finite() -> None:
    for log_ratio, advantage in ((1000.0, -1.0), (1000.0, 0.0), (-1000.0, -1.0)):
        assert math.isfinite(one_token(log_ratio, advantage).loss.item())
    assert one_token(0.0, 1.0, behaviour_gap=1000.0).loss.item() == pytest.approx(-2.0)


def test_padding_may_hold_anything() -> None:
    policy = POLICY.clone().requires_grad_()
    loss_of(policy).loss.backward()
    assert policy.grad is not None
    assert policy.grad[1, 2].item() == 0.0
    assert policy.grad.isfinite().all()


def test_an_empty_micro_batch_adds_nothing_and_still_has_a_gradient() -> None:
    policy = POLICY.clone().requires_grad_()
    result = loss_of(policy, rows=slice(0, 0))
    assert (result.loss.item(), result.sums.tokens, result.sums.proximal_kl) == (0.0, 0, 0.0)
    result.loss.backward()
    assert policy.grad is not None
    assert not policy.grad.any()


@pytest.mark.parametrize(("ratio", "loss", "dual"), [(5.0, 3.0, 1), (2.0, 2.0, 0), (0.1, 0.8, 0)])
def test_the_dual_clip_bounds_the_loss_of_a_negative_advantage(ratio: float, loss: float, dual: int) -> None:
    result = one_token(math.log(ratio), -1.0, dual_clip=3.0)
    assert result.loss.item() == pytest.approx(loss)
    assert result.sums.marked["dual_clipped"] == dual


def test_the_dual_clip_leaves_positive_advantages_alone() -> None:
    assert one_token(math.log(5), 1.0, dual_clip=3.0).loss.item() == pytest.approx(-1.2)


@pytest.mark.parametrize(("ratio", "gradient"), [(1.1, -1.1), (5.0, -1.2), (0.1, -0.8)])
def test_cispo_keeps_the_gradient_of_clipped_tokens(ratio: float, gradient: float) -> None:
    # d/dlogp of -A clip(r) log pi = -A clip(r); the PPO clip would send none at 5.
    proximal, mask = torch.tensor([[-1.0]], dtype=torch.float64), torch.ones(1, 1, dtype=torch.bool)
    policy = (proximal + math.log(ratio)).requires_grad_()
    advantages = torch.ones(1, 1, dtype=torch.float64)
    result = policy_loss(policy, proximal, proximal, advantages, mask, mask.double(), options_of(loss="cispo"))
    result.loss.backward()
    assert policy.grad is not None
    assert policy.grad.item() == pytest.approx(gradient)
    assert result.sums.marked["clipped"] == int(ratio != 1.1)


def behaviour_with(weights: list[list[float]]) -> Tensor:
    return PROXIMAL - torch.tensor(weights, dtype=torch.float64).log()


STALE = behaviour_with([[1.5, 4.0, 0.1], [1.0, 3.0, 1.0]])


@pytest.mark.parametrize(
    ("correction", "weights", "capped"),
    [
        ("token", 1.5 + 2 + 0.1 + 1 + 2, 2),
        ("sequence", 3 * 0.6 + 2 * 2, 2),  # products 0.6 and 3
        ("band", 1.5 + 1, 3),
        ("none", 5, 0),
        ("sequence_band", 3 * 0.6, 2),  # the second response's product is 3
        ("geometric_band", 1.5 + 2 + 0.1, 3),  # geometric means 0.6^(1/3) = 0.84 and sqrt(3) = 1.73; the 4 is capped
    ],
)
def test_stale_rollouts_are_corrected_as_chosen(correction: str, weights: float, capped: int) -> None:
    sums = loss_of(POLICY, behaviour=STALE, correction=correction, geometric_low=0.8, geometric_high=1.2).sums
    assert sums.importance_weight == pytest.approx(weights)
    assert sums.capped == capped


@pytest.mark.parametrize(("setting", "value", "kept"), [("sequence_high", 3.1, True), ("sequence_low", 0.61, False)])
def test_whole_responses_are_rejected_by_the_sequences_own_bounds(setting: str, value: float, kept: bool) -> None:
    # Products 0.6 and 3: within [0.5, 3.1] both count, within [0.61, 2] neither.
    bound: dict[str, Any] = {setting: value}
    sums = loss_of(POLICY, behaviour=STALE, correction="sequence_band", **bound).sums
    assert sums.importance_weight == pytest.approx(3 * 0.6 + 2 * 3 if kept else 0)
    assert sums.capped == (0 if kept else 5)


def test_a_geometric_mean_does_not_depend_on_the_responses_length() -> None:
    # 1.004 per token: within 1.01 however many tokens follow each other, while the product leaves [0.5, 2].
    length = 400
    start = torch.full((1, length), -1.0, dtype=torch.float64)
    ones = torch.ones(1, length, dtype=torch.float64)
    for correction, weights in (("geometric_band", 1.004 * length), ("sequence_band", 0.0)):
        options = options_of(correction=correction)
        sums = policy_loss(start, start, start - math.log(1.004), ones, ones.bool(), ones, options).sums
        assert sums.importance_weight == pytest.approx(weights)


def test_kl_and_entropy_act_when_their_coefficients_are_set() -> None:
    reference, entropies = POLICY - 0.5, torch.full_like(POLICY, 2.0)
    options = options_of(kl_coefficient=0.1, kl_estimator="k2", entropy_coefficient=0.01)
    result = policy_loss(POLICY, PROXIMAL, PROXIMAL, ADVANTAGES, MASK, SHARES, options, reference_logprobs=reference, entropies=entropies)
    assert result.loss.item() == pytest.approx(loss_of(POLICY).loss.item() + 0.1 * 0.125 - 0.01 * 2)
    assert result.sums.reference_kl == pytest.approx(5 * 0.125)
    assert result.sums.entropy == pytest.approx(10.0)


@pytest.mark.parametrize("name", ["kl_coefficient", "entropy_coefficient"])
def test_a_coefficient_never_fails_to_act_in_silence(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} \(0.1\) needs .* set the coefficient to 0"):
        policy_loss(POLICY, PROXIMAL, PROXIMAL, ADVANTAGES, MASK, SHARES, replace(options_of(), **{name: 0.1}))


CHOICES = st.fixed_dictionaries(
    {
        "loss": st.sampled_from(["clip", "cispo", "gspo"]),
        "gspo_gradient": st.sampled_from(["sequence", "token"]),
        "clip_low": st.sampled_from([0.1, 0.2, 1.0]),
        "clip_high": st.sampled_from([0.2, 0.5]),
        "dual_clip": st.sampled_from([0.0, 3.0]),
        "correction": st.sampled_from(["token", "sequence", "band", "none", "sequence_band", "geometric_band"]),
        "geometric_low": st.just(0.5),
        "geometric_high": st.just(2.0),
        "kl_estimator": st.sampled_from(["k1", "k2", "k3"]),
        "kl_coefficient": st.sampled_from([0.0, 0.1]),
        "entropy_coefficient": st.sampled_from([0.0, 0.01]),
    }
)


def slow_loss(case: Case, options: dict[str, Any], aggregation: str) -> float:
    """Numbers 0 to 5 of the case: policy, proximal, behaviour, advantage, reference, entropy."""
    policy, proximal, behaviour, advantage, reference, entropy = case.numbers
    total = 0.0
    for i in range(len(case.lengths)):
        share = slow.share(case.lengths, case.group_ids, i, aggregation)
        for t in range(case.lengths[i]):
            weight = slow.importance_weight(proximal[i], behaviour[i], t, correction=options["correction"], cap=2.0, band=(0.5, 2.0))
            ratio = math.exp(policy[i][t] - proximal[i][t])
            low, high = options["clip_low"], options["clip_high"]
            if options["loss"] == "cispo":
                term = slow.cispo_surrogate(policy[i][t], ratio, advantage[i][t], low, high)
            elif options["loss"] == "gspo":
                term = slow.clipped_surrogate(slow.response_ratio(policy[i], proximal[i]), advantage[i][t], 3e-4, 4e-4, None)
            else:
                term = slow.clipped_surrogate(ratio, advantage[i][t], low, high, options["dual_clip"] or None)
            kl = options["kl_coefficient"] * slow.token_kl(policy[i][t], reference[i][t], options["kl_estimator"])
            total += share * (weight * term + kl - options["entropy_coefficient"] * entropy[i][t])
    return total


def fast_loss(case: Case, options: dict[str, Any], aggregation: Any, rows: slice = slice(None), policy: Tensor | None = None) -> StepLoss:
    matrices = [case.matrix(numbers) for numbers in case.numbers]
    counts = StepCounts(tokens=sum(case.lengths), rollouts=len(case.lengths), groups=len(set(case.group_ids)))
    group_tokens = torch.tensor([sum(case.lengths[j] for j in slow.members(case.group_ids, i)) for i in range(len(case.lengths))])
    shares = token_shares(case.is_trained, group_tokens, counts, aggregation=aggregation, constant_tokens=7)
    own, proximal, behaviour, advantages, reference, entropies = (matrix[rows] for matrix in matrices)
    return policy_loss(
        own if policy is None else policy[rows],
        proximal,
        behaviour,
        advantages,
        case.is_trained[rows],
        shares[rows],
        options_of(**options),
        reference_logprobs=reference,
        entropies=entropies,
    )


@settings(max_examples=80)
@given(case=cases(numbers=6), options=CHOICES, aggregation=st.sampled_from(get_args(Aggregation)))
def test_every_loss_equals_its_slow_implementation(case: Case, options: dict[str, Any], aggregation: str) -> None:
    assert fast_loss(case, options, aggregation).loss.item() == pytest.approx(slow_loss(case, options, aggregation), abs=1e-9, rel=1e-9)


@settings(max_examples=60)
@given(case=cases(numbers=6), options=CHOICES, aggregation=st.sampled_from(get_args(Aggregation)), cut=st.integers(0, 12))
def test_every_loss_and_gradient_is_the_sum_over_micro_batches(case: Case, options: dict[str, Any], aggregation: str, cut: int) -> None:
    whole, split = (case.matrix(case.numbers[0]).requires_grad_() for _ in range(2))
    expected = fast_loss(case, options, aggregation, policy=whole).loss
    parts = [fast_loss(case, options, aggregation, rows, split).loss for rows in (slice(0, cut), slice(cut, None))]
    (parts[0] + parts[1]).backward()
    expected.backward()
    close(parts[0] + parts[1], expected)
    close(split.grad, whole.grad)


@pytest.mark.parametrize("loss", ["clip", "cispo", "gspo"])
@pytest.mark.parametrize("correction", ["token", "sequence", "band", "sequence_band", "geometric_band"])
@pytest.mark.parametrize("kl_estimator", ["k1", "k2", "k3"])
def test_policy_losses_have_the_gradient_of_finite_differences(loss: str, correction: str, kl_estimator: str) -> None:
    # Away from the corners of clip and band. CISPO holds its ratio: the slow form keeps that of the middle while log pi moves.
    options = {
        "loss": loss, "correction": correction, "kl_estimator": kl_estimator, "kl_coefficient": 0.3, "dual_clip": 3.0,
        "clip_low": 0.2, "clip_high": 0.28, "entropy_coefficient": 0.0, "geometric_low": 0.5, "geometric_high": 2.0,
    }  # fmt: skip
    policy = [[-0.7, -0.6, -2.0], [-0.6, -1.0]]
    case = Case(
        lengths=[3, 2],
        group_ids=[1, 1],
        outcomes=[1.0, 0.0],
        prompt_lengths=[1, 2],
        numbers=[policy, [[-1, -0.5, -2], [-0.3, -1.2]], [[-1.2, -0.4, -4], [-0.3, -1.1]], [[1, -1, 0.5], [2, -0.5]],
                 [[-1, -1, -1], [-1, -1]], [[0, 0, 0], [0, 0]]],
    )  # fmt: skip
    moving = case.matrix(policy).requires_grad_()
    fast_loss(case, options, "sequences", policy=moving).loss.backward()
    assert moving.grad is not None
    gradient = case.rows_of(moving.grad)
    step = 1e-6
    for i, row in enumerate(policy):
        for t in range(len(row)):
            ends = []
            for sign in (1, -1):
                moved = [list(values) for values in policy]
                moved[i][t] += sign * step
                if loss == "cispo":
                    ends.append(held_cispo_loss(case, options, moved))
                else:
                    changed = replace(case, numbers=[moved, *case.numbers[1:]])
                    ends.append(slow_loss(changed, options, "sequences"))
            assert gradient[i][t] == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-7)


def held_cispo_loss(case: Case, options: dict[str, Any], moved: list[list[float]]) -> float:
    """The slow CISPO loss with the ratios of the unmoved policy."""
    policy, proximal, behaviour, advantage, reference, _ = case.numbers
    total = 0.0
    for i, row in enumerate(moved):
        for t, logprob in enumerate(row):
            weight = slow.importance_weight(proximal[i], behaviour[i], t, correction=options["correction"], cap=2.0, band=(0.5, 2.0))
            held = math.exp(policy[i][t] - proximal[i][t])
            term = slow.cispo_surrogate(logprob, held, advantage[i][t], options["clip_low"], options["clip_high"])
            kl = options["kl_coefficient"] * slow.token_kl(logprob, reference[i][t], options["kl_estimator"])
            total += slow.share(case.lengths, case.group_ids, i, "sequences") * (weight * term + kl)
    return total


def test_the_sums_of_nothing_have_the_layout_of_a_micro_batch() -> None:
    for options in (options_of(), options_of(dual_clip=3.0), options_of(loss="cispo"), options_of(loss="gspo")):
        sums, start = loss_of_options(options).sums, sums_of_nothing(options)
        assert not any(start.values())
        assert start.with_values(sums.values()) == sums
    assert [*sums_of_nothing(options_of()).marked] == ["clipped"]
    assert [*sums_of_nothing(options_of(dual_clip=3.0)).marked] == ["clipped", "dual_clipped"]


def loss_of_options(options: PolicyLossOptions) -> StepLoss:
    return policy_loss(POLICY, PROXIMAL, PROXIMAL, ADVANTAGES, MASK, SHARES, options)


def test_the_correction_of_the_guide_is_one_file(tmp_path: Path) -> None:
    with one_more_file(corrections, tmp_path, "halved", example("halved")):
        # A weight of 1.5^2 becomes 1.5, and one of 9 is capped at 2.
        sums = [one_token(0.0, 1.0, behaviour_gap=2 * math.log(root), correction="halved").sums for root in (1.5, 3.0)]
        capped = one_token(0.0, 1.0, behaviour_gap=2 * math.log(3), correction="halved", importance_cap=2.5).sums
    assert [one.importance_weight for one in (*sums, capped)] == pytest.approx([1.5, 2.0, 2.5])
    assert [one.capped for one in sums] == [0, 1]


def test_the_policy_loss_of_the_guide_is_one_file(tmp_path: Path) -> None:
    with one_more_file(policy_losses, tmp_path, "spo", example("spo")):
        # -A r + |A| (r - 1)^2 / (2 e): for r = 1.5 and A = -2 that is 3 + 2 * 0.25 / 0.4, and for e = 0.5, 3 + 0.5.
        losses = [one_token(math.log(1.5), -2.0, loss="spo", **own) for own in ({}, {"spo_width": 0.5})]
        marks = [one_token(math.log(ratio), 1.0, loss="spo").sums.marked for ratio in (1.5, 1.1)]
    assert [one.loss.item() for one in losses] == pytest.approx([4.25, 3.5])
    assert marks == [{"far": 1.0}, {"far": 0.0}]
