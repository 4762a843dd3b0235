"""Leave-one-out advantages from process and outcome rewards (paper, Eq. 5).

Siblings are found by group id, so rows may stand in any order and groups may differ in size.
"""

from dataclasses import dataclass
from typing import Literal, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from oprime.core.implicit_reward import normalise_by_largest_return
from oprime.core.masked import masked_mean, masked_whiten, returns

LeaveOneOut = Literal["paper", "released"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AdvantageResult:
    advantages: Float[Tensor, "rollout token"]
    """Weighted sum of both returns, whitened if asked for; 0 outside the response."""
    process_returns: Float[Tensor, "rollout token"]
    """Discounted sum of process rewards after baselines, before its weight."""
    outcome_returns: Float[Tensor, "rollout token"]
    """Discounted outcome reward after its baseline, before its weight."""


def rloo_advantages(
    process_rewards: Float[Tensor, "rollout token"],
    outcome_rewards: Float[Tensor, " rollout"],
    is_response: Bool[Tensor, "rollout token"],
    group_ids: Int[Tensor, " rollout"],
    *,
    loo: LeaveOneOut,
    process_weight: float,
    outcome_weight: float,
    process_discount: float,
    outcome_discount: float,
    normalise: bool,
    normalisation_floor: float,
    whiten: bool,
) -> AdvantageResult:
    """Compare rewards with those of siblings, sum them to returns and add both sources (Eq. 5).

    Give it the whole batch: normalisation and whitening look at all rollouts. Sums are float64; results have the type
    of `process_rewards`. An empty batch gives an empty result. Raises ValueError for a group of one rollout.
    """
    rewards = process_rewards.double().where(is_response, 0.0)
    if normalise:
        rewards = normalise_by_largest_return(rewards, is_response, floor=normalisation_floor)
    process = process_rewards_less_baseline(rewards, is_response, group_ids, loo=loo)
    outcome = at_last_token(outcome_rewards.double() - leave_one_out_mean(outcome_rewards.double(), group_ids), is_response)
    process_returns = returns(process, is_response, process_discount)
    outcome_returns = returns(outcome, is_response, outcome_discount)
    advantages = process_weight * process_returns + outcome_weight * outcome_returns
    if whiten:
        advantages = masked_whiten(advantages, is_response)
    dtype = process_rewards.dtype
    return AdvantageResult(
        advantages=advantages.to(dtype), process_returns=process_returns.to(dtype), outcome_returns=outcome_returns.to(dtype)
    )


def leave_one_out_mean(values: Float[Tensor, " rollout"], group_ids: Int[Tensor, " rollout"]) -> Float[Tensor, " rollout"]:
    """Mean value of each rollout's siblings, itself left out. Raises ValueError for a group of one rollout."""
    total, sizes = _group_sums(values, group_ids)
    return (total - values) / (sizes - 1)


def process_rewards_less_baseline(
    process_rewards: Float[Tensor, "rollout token"],
    is_response: Bool[Tensor, "rollout token"],
    group_ids: Int[Tensor, " rollout"],
    *,
    loo: LeaveOneOut,
) -> Float[Tensor, "rollout token"]:
    """Subtract a leave-one-out baseline from every response token's process reward; 0 outside the response.

    With m_i the mean token reward of response i and K its group's size, `paper` is r_t - sum over siblings of m_j / (K - 1)
    (Eq. 5), and `released` is K / (K - 1) * r_t - sum over the group of m_j / (K - 1), as the released code computes it.
    They differ by (r_t - m_i) / (K - 1), which sums to 0 over a response.
    """
    means = masked_mean(process_rewards, is_response)
    if loo == "paper":
        result = process_rewards - leave_one_out_mean(means, group_ids)[:, None]
    else:
        total, sizes = _group_sums(means, group_ids)
        result = (sizes / (sizes - 1))[:, None] * process_rewards - (total / (sizes - 1))[:, None]
    return result.where(is_response, 0.0)


def at_last_token(values: Float[Tensor, " rollout"], is_response: Bool[Tensor, "rollout token"]) -> Float[Tensor, "rollout token"]:
    """Put each rollout's value on its last response token and 0 elsewhere."""
    tokens_ahead = is_response.flip(1).cumsum(dim=1).flip(1)
    return values[:, None].where(is_response & (tokens_ahead == 1), 0.0)


def _group_sums(
    values: Float[Tensor, " rollout"], group_ids: Int[Tensor, " rollout"]
) -> tuple[Float[Tensor, " rollout"], Float[Tensor, " rollout"]]:
    """Each rollout's group's sum of values and number of rollouts."""
    unique = torch.unique(group_ids, return_inverse=True, return_counts=True)  # pyright: ignore
    groups, group, sizes = cast("tuple[Tensor, Tensor, Tensor]", unique)
    alone = groups[sizes < 2]
    if len(alone) > 0:
        raise ValueError(
            f"group {int(alone[0])} has 1 rollout, but a leave-one-out baseline needs siblings: "
            "set sampling.group_size to 2 or more and leave out groups that shrank to 1"
        )
    sums = values.new_zeros(len(groups)).index_add(0, group, values)
    return sums[group], sizes[group].to(values.dtype)
