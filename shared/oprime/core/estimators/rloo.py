"""Leave-one-out: every rollout is compared with its siblings."""

from typing import Literal

from jaxtyping import Float

from oprime.core.advantage import Choices, Estimate, Estimator, Need, Rewards, earned_ahead, outcome_part, process_part
from oprime.core.checked import checked
from oprime.core.groups import group_sizes, leave_one_out_mean
from oprime.core.masked import masked_mean
from oprime.core.one_file import OwnSetting
from oprime.core.tensors import Tensor

LeaveOneOut = Literal["paper", "released"]


def rloo(rewards: Rewards, choices: Choices, *, loo: LeaveOneOut) -> Estimate:
    """Raises ValueError for a group of one rollout."""
    outcome = rewards.outcome - leave_one_out_mean(rewards.outcome, rewards.group_ids)
    return earned_ahead(rewards, choices, process_rewards_less_baseline(rewards, loo=loo), outcome)


@checked
def process_rewards_less_baseline(rewards: Rewards, *, loo: LeaveOneOut) -> Float[Tensor, "rollout token"]:
    """Subtract a leave-one-out baseline from every process reward; 0 where there is none.

    `paper` and `released` differ by (r_t - m_i) / (K - 1), which sums to 0 over a response.
    """
    means = masked_mean(rewards.process, rewards.rewarded)
    result = rewards.process - leave_one_out_mean(means, rewards.group_ids)[:, None]
    if loo == "released":
        result = result + (rewards.process - means[:, None]) / (group_sizes(rewards.group_ids) - 1)[:, None]
    return result.where(rewards.rewarded, 0.0)


ESTIMATOR = Estimator(
    about="leave-one-out baselines",
    source="paper, Eq. 5",
    formulas=(
        process_part("P_t = sum_{s>=t} g^(s-t) (r_s - mean of m_j over the siblings j)", when={"loo": "paper"}),
        process_part("P_t = sum_{s>=t} g^(s-t) (K/(K-1) r_s - sum of m_j over the group / (K-1))", when={"loo": "released"}),
        outcome_part("O_t = g^(T-t) (r_o - mean of r_o over the siblings)"),
    ),
    estimate=rloo,
    by_group=True,
    needs=frozenset({Need.SIBLINGS}),
    settings=(
        OwnSetting(
            name="loo",
            default="paper",
            choices=("paper", "released"),
            meaning="Leave-one-out on process rewards: Eq. 5 of the paper, or its released code (scaled by K/(K-1)).",
        ),
    ),
)
