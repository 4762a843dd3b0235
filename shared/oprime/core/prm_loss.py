"""The loss that teaches the implicit PRM outcomes (paper, Eq. 4), and how well its scores order responses."""

from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional


def outcome_cross_entropy(scores: Float[Tensor, " rollout"], outcome_rewards: Float[Tensor, " rollout"]) -> Float[Tensor, " rollout"]:
    """Cross-entropy in nats of sigmoid(score) against the outcome reward, per rollout (Eq. 4).

    `scores` are sums of process rewards (beta included), not divided by length. Outcome rewards may be fractions.
    Computed from logits, so it never saturates. Raises ValueError for outcome rewards outside [0, 1].
    """
    bad = ~((outcome_rewards >= 0) & (outcome_rewards <= 1))
    if bool(bad.any()):
        value = float(outcome_rewards[bad][0])
        raise ValueError(f"outcome reward {value} is outside [0, 1]: a verifier must return a score from 0 to 1")
    return functional.binary_cross_entropy_with_logits(scores, outcome_rewards, reduction="none")


def mean_outcome_cross_entropy(
    scores: Float[Tensor, " rollout"], outcome_rewards: Float[Tensor, " rollout"], *, rollout_count: int | None = None
) -> Float[Tensor, ""]:
    """Mean of `outcome_cross_entropy` (Eq. 4); 0 if there are no rollouts.

    A micro-batch passes the `rollout_count` of its whole optimizer step: the shares of all micro-batches then add up to the step's mean.
    """
    count = len(scores) if rollout_count is None else rollout_count
    return outcome_cross_entropy(scores, outcome_rewards).sum() / max(count, 1)


def sign_matches(scores: Float[Tensor, " rollout"], outcome_rewards: Float[Tensor, " rollout"]) -> Float[Tensor, " rollout"]:
    """1 where the score is positive and the outcome above 1/2, or negative and below, or both exactly between; else 0.

    The mean is the PRM's accuracy.
    """
    return (scores.sign() == (2 * outcome_rewards - 1).sign()).to(scores.dtype)


def pairwise_accuracies(
    scores: Float[Tensor, " rollout"], outcome_rewards: Float[Tensor, " rollout"], group_ids: Int[Tensor, " rollout"]
) -> Float[Tensor, " group"]:
    """Share of sibling pairs that the scores order as the outcomes do, per group, in ascending order of group id.

    A pair weighs as much as its outcomes differ. Of a pair with equal scores the later row counts as preferred. A group
    without different outcomes gets 1/2. The mean over groups is the PRM's pairwise accuracy.
    """
    accuracies: list[Tensor] = []
    groups = cast("Tensor", torch.unique(group_ids))  # pyright: ignore
    for group in groups:
        members = group_ids == group
        score, outcome = scores[members], outcome_rewards[members]
        gain = (outcome[None, :] - outcome[:, None]).triu(diagonal=1)
        later_preferred = score[:, None] <= score[None, :]
        right = torch.where(later_preferred, gain > 0, gain < 0)
        weight = gain.abs()
        total = weight.sum()
        accuracies.append(torch.where(total > 0, (weight * right).sum() / total.clamp(min=torch.finfo(total.dtype).tiny), 0.5))
    return torch.stack(accuracies).to(scores.dtype) if accuracies else scores.new_zeros(0)
