"""The losses that teach the implicit PRM outcomes (paper, Eq. 4 and appendix C.2), and how well its scores order responses."""

from dataclasses import dataclass
from typing import Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from oprime.core.masked import masked_mean

PairLoss = Literal["dpo", "bon_acc", "bon_rm"]


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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairStatistics:
    """What a pair loss needs to know of each rollout's whole group; without gradient."""

    others: Float[Tensor, " rollout"]
    """Mean score of the siblings that the rollout is compared with; 0 if there are none."""
    weights: Float[Tensor, " rollout"]


def pair_statistics(
    loss: PairLoss, scores: Float[Tensor, " rollout"], outcome_rewards: Float[Tensor, " rollout"], group_ids: Int[Tensor, " rollout"]
) -> PairStatistics:
    """Statistics from the scores (beta included) of the whole batch before the update: what mode `reverse` gathers.

    A rollout with an outcome above 1/2 is compared with the siblings of lower outcome, one below with those of higher.
    `dpo` weighs all rollouts 1; `bon_acc` and `bon_rm` weigh them as likely as they are to be the best of K:
    K * (share of the group that is no better, by outcome or by score)^(K - 1).
    """
    siblings = group_ids[:, None] == group_ids[None, :]
    better = siblings & (outcome_rewards[None, :] > outcome_rewards[:, None])
    worse = siblings & (outcome_rewards[None, :] < outcome_rewards[:, None])
    opponents = torch.where(_signs(outcome_rewards)[:, None] > 0, worse, better)
    others = masked_mean(scores.detach().expand(len(scores), -1), opponents)
    if loss == "dpo":
        return PairStatistics(others=others, weights=torch.ones_like(others))
    ranking = outcome_rewards if loss == "bon_acc" else scores.detach()
    sizes = siblings.sum(dim=1).to(scores.dtype)
    share = (siblings & (ranking[None, :] <= ranking[:, None])).sum(dim=1) / sizes
    return PairStatistics(others=others, weights=sizes * share ** (sizes - 1))


def pair_losses(
    scores: Float[Tensor, " rollout"], outcome_rewards: Float[Tensor, " rollout"], statistics: PairStatistics
) -> Float[Tensor, " rollout"]:
    """DPO with one side detached, per rollout: -weight * log sigmoid(sign(2 r_o - 1) * (score - other)).

    An outcome of exactly 1/2 says neither and sends no gradient. The step's loss is the mean over rollouts, not the sum.
    """
    return -statistics.weights * functional.logsigmoid(_signs(outcome_rewards) * (scores - statistics.others))


def _signs(outcome_rewards: Float[Tensor, " rollout"]) -> Float[Tensor, " rollout"]:
    return (2 * outcome_rewards - 1).sign()


def sign_matches(scores: Float[Tensor, " rollout"], outcome_rewards: Float[Tensor, " rollout"]) -> Float[Tensor, " rollout"]:
    """1 where the score is positive and the outcome above 1/2, or negative and below, or both exactly between; else 0.

    The mean is the PRM's accuracy.
    """
    return (scores.sign() == _signs(outcome_rewards)).to(scores.dtype)


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
