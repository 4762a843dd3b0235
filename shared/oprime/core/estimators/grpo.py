"""GRPO: rewards standardised within the group."""

from oprime.core.advantage import Choices, Estimate, Estimator, Need, Rewards, earned_ahead, outcome_part, process_part
from oprime.core.groups import group_mean, group_std
from oprime.core.masked import masked_mean

SMALLEST_PROCESS_STD = 1e-4
"""Process rewards are divided by no less: siblings that agree would blow their sum up."""
SMALLEST_OUTCOME_STD = 1e-6
"""Outcome rewards are divided by no less; siblings of equal outcome get 0."""
DDOF = 1
"""The standard deviation is the unbiased one, over K - 1. The paper leaves it open."""


def grpo(rewards: Rewards, choices: Choices) -> Estimate:
    """Raises ValueError for a group of one rollout."""
    ids, means = rewards.group_ids, masked_mean(rewards.process, rewards.rewarded)
    process_std = group_std(means, ids, ddof=DDOF).clamp(min=SMALLEST_PROCESS_STD)
    outcome_std = group_std(rewards.outcome, ids, ddof=DDOF).clamp(min=SMALLEST_OUTCOME_STD)
    process = (rewards.process - group_mean(means, ids)[:, None]) / process_std[:, None]
    outcome = (rewards.outcome - group_mean(rewards.outcome, ids)) / outcome_std
    return earned_ahead(rewards, choices, process, outcome)


ESTIMATOR = Estimator(
    about="GRPO, standardised within the group",
    source="paper, Eq. 7",
    formulas=(
        process_part(
            f"P_t = sum_{{s>=t}} g^(s-t) (r_s - mean of m_j) / max(std of m_j, {SMALLEST_PROCESS_STD:g}), over the group, std over K-{DDOF}"
        ),
        outcome_part(f"O_t = g^(T-t) (r_o - mean of r_o) / max(std of r_o, {SMALLEST_OUTCOME_STD:g}), over the group, std over K-{DDOF}"),
    ),
    estimate=grpo,
    by_group=True,
    needs=frozenset({Need.SIBLINGS}),
)
