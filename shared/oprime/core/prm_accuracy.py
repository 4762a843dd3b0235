"""How well the implicit PRM's scores order responses."""

from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from oprime.core.checked import checked
from oprime.core.prm_loss import outcome_signs


@checked
def sign_matches(scores: Float[Tensor, " rollout"], outcome_rewards: Float[Tensor, " rollout"]) -> Float[Tensor, " rollout"]:
    """1 where the score is positive and the outcome above 1/2, or negative and below, or both exactly between; else 0.

    A score of exactly 0 predicts neither, so it is half right: before its first update the PRM equals its reference, all scores
    are 0, and that is the accuracy of a coin. The mean is the PRM's accuracy.
    """
    signs, outcomes = scores.sign(), outcome_signs(outcome_rewards)
    return (signs == outcomes).to(scores.dtype).where((signs != 0) | (outcomes == 0), 0.5)


@checked
def pairwise_accuracies(
    scores: Float[Tensor, " rollout"], outcome_rewards: Float[Tensor, " rollout"], group_ids: Int[Tensor, " rollout"]
) -> Float[Tensor, " group"]:
    """Share of sibling pairs that the scores order as the outcomes do, per group, in ascending order of group id.

    A pair weighs as much as its outcomes differ. A pair with equal scores is half right. A group without different outcomes
    gets 1/2. The mean over groups is the PRM's pairwise accuracy.
    """
    accuracies: list[Tensor] = []
    groups = cast("Tensor", torch.unique(group_ids))  # pyright: ignore
    for group in groups:
        members = group_ids == group
        score, outcome = scores[members], outcome_rewards[members]
        gain = (outcome[None, :] - outcome[:, None]).triu(diagonal=1)
        # 1 for the right order, 0 for the wrong one, 1/2 for a tie.
        right = (1 + gain.sign() * (score[None, :] - score[:, None]).sign()) / 2
        weight = gain.abs()
        total = weight.sum()
        accuracies.append(torch.where(total > 0, (weight * right).sum() / total.clamp(min=torch.finfo(total.dtype).tiny), 0.5))
    return torch.stack(accuracies).to(scores.dtype) if accuracies else scores.new_zeros(0)
