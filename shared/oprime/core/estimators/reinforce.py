"""REINFORCE: rewards as they are."""

from oprime.core.advantage import Choices, Estimate, Estimator, Rewards, earned_ahead, outcome_part, process_part


def reinforce(rewards: Rewards, choices: Choices) -> Estimate:
    return earned_ahead(rewards, choices, rewards.process, rewards.outcome)


ESTIMATOR = Estimator(
    about="REINFORCE without a baseline",
    source="paper, Eq. 8",
    formulas=(process_part("P_t = sum_{s>=t} g^(s-t) r_s"), outcome_part("O_t = g^(T-t) r_o")),
    estimate=reinforce,
    by_group=True,
)
