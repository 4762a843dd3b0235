"""GRPO: rewards standardised within the group, or only centred (Dr. GRPO)."""

from oprime.core.advantage import Choices, Estimate, Estimator, Need, Rewards, earned_ahead, outcome_part, process_part
from oprime.core.groups import group_mean, group_std, group_token_moments
from oprime.core.masked import masked_mean
from oprime.core.one_file import OwnSetting
from oprime.core.tensors import Tensor

SMALLEST_PROCESS_STD = 1e-4
"""Process rewards are divided by no less: siblings that agree would blow their sum up."""
SMALLEST_OUTCOME_STD = 1e-6
"""Outcome rewards are divided by no less; siblings of equal outcome get 0."""
DDOF = 1
"""The standard deviation is the unbiased one, over K - 1. The paper leaves it open."""


def grpo(rewards: Rewards, choices: Choices, *, divide_by_std: bool, standardised: str) -> Estimate:
    """Raises ValueError for a group of one rollout."""
    ids = rewards.group_ids
    outcome_std = group_std(rewards.outcome, ids, ddof=DDOF).clamp(min=SMALLEST_OUTCOME_STD)
    outcome = rewards.outcome - group_mean(rewards.outcome, ids)
    process_mean, process_std = _process_moments(rewards, of_tokens=standardised == "tokens")
    process = rewards.process - process_mean[:, None]
    if divide_by_std:
        process, outcome = process / process_std.clamp(min=SMALLEST_PROCESS_STD)[:, None], outcome / outcome_std
    return earned_ahead(rewards, choices, process, outcome)


def _process_moments(rewards: Rewards, *, of_tokens: bool) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each rollout's group."""
    if of_tokens:
        return group_token_moments(rewards.process, rewards.rewarded, rewards.group_ids, ddof=DDOF)
    means = masked_mean(rewards.process, rewards.rewarded)
    return group_mean(means, rewards.group_ids), group_std(means, rewards.group_ids, ddof=DDOF)


SCALED, UNSCALED = {"divide_by_std": True}, {"divide_by_std": False}
RESPONSES, TOKENS = {"standardised": "responses"}, {"standardised": "tokens"}

ESTIMATOR = Estimator(
    about="GRPO, standardised within the group",
    source="paper, Eq. 7; without the division: Dr. GRPO, arXiv 2503.20783; over tokens: IPVRM, arXiv 2604.13197",
    formulas=(
        process_part(
            f"P_t = sum_{{s>=t}} g^(s-t) (r_s - mean of m_j) / max(std of m_j, {SMALLEST_PROCESS_STD:g}), "
            f"over the group, std over K-{DDOF}",
            when=SCALED | RESPONSES,
        ),
        process_part(
            f"P_t = sum_{{s>=t}} g^(s-t) (r_s - mean of r) / max(std of r, {SMALLEST_PROCESS_STD:g}), over all tokens of the group, std "
            f"over their number - {DDOF}",
            when=SCALED | TOKENS,
        ),
        process_part("P_t = sum_{s>=t} g^(s-t) (r_s - mean of m_j over the group)", when=UNSCALED | RESPONSES),
        process_part("P_t = sum_{s>=t} g^(s-t) (r_s - mean of r over all tokens of the group)", when=UNSCALED | TOKENS),
        outcome_part(
            f"O_t = g^(T-t) (r_o - mean of r_o) / max(std of r_o, {SMALLEST_OUTCOME_STD:g}), over the group, std over K-{DDOF}",
            when=SCALED,
        ),
        outcome_part("O_t = g^(T-t) (r_o - mean of r_o over the group)", when=UNSCALED),
    ),
    estimate=grpo,
    by_group=True,
    needs=frozenset({Need.SIBLINGS}),
    settings=(
        OwnSetting(
            name="divide_by_std",
            default=True,
            meaning="Whether rewards less the group's mean are divided by its standard deviation. Off is Dr. GRPO, with whiten_advantages "
            'off and aggregation = "constant" besides.',
        ),
        OwnSetting(
            name="standardised",
            default="responses",
            choices=("responses", "tokens"),
            meaning="Whose mean and standard deviation process rewards are measured by: that of the mean reward of each response of the "
            "group, or that of all its tokens. With `tokens`, process_discount as gamma times lambda and a process_weight of about 0.05 it "
            "is IPVRM's temporal-difference advantage.",
        ),
    ),
)
