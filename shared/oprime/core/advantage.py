"""From rewards to advantages: one function per estimator of the paper, each for both reward sources.

An estimator gives two returns per response token, one of the process rewards and one of the outcome reward; `advantages`
weights and adds them. A source of weight 0 is that estimator without it. PPO, which needs a critic, is in `critic.py`.
"""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor

from oprime.core.groups import group_mean, group_sizes, group_std, leave_one_out_mean
from oprime.core.masked import at_last_token, masked_mean, masked_whiten, returns

LeaveOneOut = Literal["paper", "released"]

SMALLEST_PROCESS_STD = 1e-4
"""GRPO divides process rewards by no less: siblings that agree would blow their sum up."""
SMALLEST_OUTCOME_STD = 1e-6
"""GRPO divides outcome rewards by no less; siblings of equal outcome get 0."""
GRPO_DDOF = 1
"""GRPO's standard deviation is the unbiased one, over K - 1. The paper leaves it open."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rewards:
    """What the rollouts of a batch earned."""

    process: Float[Tensor, "rollout token"]
    """Process reward of each token, normalised or not."""
    rewarded: Bool[Tensor, "rollout token"]
    """Tokens that carry a process reward: all of the response, or its last one where the reward is of the sequence."""
    outcome: Float[Tensor, " rollout"]
    is_response: Bool[Tensor, "rollout token"]
    group_ids: Int[Tensor, " rollout"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Discounts:
    """gamma of each source."""

    process: float = 1.0
    outcome: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SourceReturns:
    """Each source's share of the advantage, before its weight; 0 outside the response."""

    process: Float[Tensor, "rollout token"]
    outcome: Float[Tensor, "rollout token"]


def rloo(rewards: Rewards, discounts: Discounts, *, loo: LeaveOneOut) -> SourceReturns:
    """Leave-one-out baselines (Eq. 5). Raises ValueError for a group of one rollout.

    A_t = sum_{s>=t} gamma^(s-t) [r_s - mean over siblings of m_j] + [r_o - mean over siblings of r_o].
    """
    outcome = rewards.outcome - leave_one_out_mean(rewards.outcome, rewards.group_ids)
    return _returns(rewards, discounts, process_rewards_less_baseline(rewards, loo=loo), outcome)


def reinforce(rewards: Rewards, discounts: Discounts) -> SourceReturns:
    """No baseline (Eq. 8): A_t = r_o + sum_{s>=t} gamma^(s-t) r_s."""
    return _returns(rewards, discounts, rewards.process, rewards.outcome)


def grpo(rewards: Rewards, discounts: Discounts, *, ddof: int = GRPO_DDOF) -> SourceReturns:
    """Standardised within the group (Eq. 7). Raises ValueError for a group of one rollout.

    A_t = (r_o - mean r_o) / std r_o + sum_{s>=t} gamma^(s-t) (r_s - mean_j m_j) / std_j m_j, with m_j the mean process
    reward of response j. The deviations are over K - ddof and floored.
    """
    ids, means = rewards.group_ids, masked_mean(rewards.process, rewards.rewarded)
    process_std = group_std(means, ids, ddof=ddof).clamp(min=SMALLEST_PROCESS_STD)
    outcome_std = group_std(rewards.outcome, ids, ddof=ddof).clamp(min=SMALLEST_OUTCOME_STD)
    process = (rewards.process - group_mean(means, ids)[:, None]) / process_std[:, None]
    outcome = (rewards.outcome - group_mean(rewards.outcome, ids)) / outcome_std
    return _returns(rewards, discounts, process, outcome)


def remax(
    rewards: Rewards,
    discounts: Discounts,
    *,
    greedy_outcome: Float[Tensor, " rollout"],
    greedy_process_mean: Float[Tensor, " rollout"],
) -> SourceReturns:
    """The policy's own greedy response as the baseline: A_t = sum_{s>=t} gamma^(s-t) (r_s - m_greedy) + (r_o - r_o,greedy).

    `greedy_outcome` and `greedy_process_mean` belong to the greedy response to each rollout's prompt; the latter is its
    mean process reward, on the scale of `rewards.process`.
    """
    return _returns(rewards, discounts, rewards.process - greedy_process_mean[:, None], rewards.outcome - greedy_outcome)


def prm_value(rewards: Rewards, discounts: Discounts) -> SourceReturns:
    """The implicit PRM as a value model (paper, section 5.4): A_t = r_o - v(y_<t), with v(y_<t) = sum_{s<t} r_s.

    The process rewards are not rewards here but differences of values, so they take no discount.
    """
    inside = rewards.process.where(rewards.is_response, 0.0)
    value = inside.cumsum(dim=1) - inside
    outcome = returns(at_last_token(rewards.outcome, rewards.is_response), rewards.is_response, discounts.outcome)
    return SourceReturns(process=(-value).where(rewards.is_response, 0.0), outcome=outcome)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AdvantageResult:
    advantages: Float[Tensor, "rollout token"]
    """Weighted sum of both sources, whitened if asked for; 0 outside the response."""
    sources: SourceReturns


def advantages(
    sources: SourceReturns, is_response: Bool[Tensor, "rollout token"], *, process_weight: float, outcome_weight: float, whiten: bool
) -> AdvantageResult:
    """Weight both sources and add them. Give it the whole batch: whitening looks at all response tokens."""
    total = process_weight * sources.process + outcome_weight * sources.outcome
    return AdvantageResult(advantages=masked_whiten(total, is_response) if whiten else total, sources=sources)


def process_rewards_less_baseline(rewards: Rewards, *, loo: LeaveOneOut) -> Float[Tensor, "rollout token"]:
    """Subtract a leave-one-out baseline from every process reward; 0 where there is none.

    With m_i the mean process reward of response i and K its group's size, `paper` is r_t - sum over siblings of m_j / (K - 1)
    (Eq. 5), and `released` is K / (K - 1) * r_t - sum over the group of m_j / (K - 1), as the released code computes it.
    They differ by (r_t - m_i) / (K - 1), which sums to 0 over a response.
    """
    means = masked_mean(rewards.process, rewards.rewarded)
    result = rewards.process - leave_one_out_mean(means, rewards.group_ids)[:, None]
    if loo == "released":
        result = result + (rewards.process - means[:, None]) / (group_sizes(rewards.group_ids) - 1)[:, None]
    return result.where(rewards.rewarded, 0.0)


def _returns(rewards: Rewards, discounts: Discounts, process: Tensor, outcome: Tensor) -> SourceReturns:
    is_response = rewards.is_response
    return SourceReturns(
        process=returns(process.where(rewards.rewarded, 0.0), is_response, discounts.process),
        outcome=returns(at_last_token(outcome, is_response), is_response, discounts.outcome),
    )
