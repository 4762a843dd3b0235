"""REINFORCE++-baseline: the group's mean comes off, the whole batch's standard deviation scales."""

from collections.abc import Iterator

from oprime.core.advantage import Choices, Estimate, Estimator, Need, Rewards, earned_ahead, outcome_part, process_part
from oprime.core.groups import group_mean
from oprime.core.masked import masked_mean


def reinforce_baseline(rewards: Rewards, choices: Choices) -> Estimate:
    """Centred within the group; whitening, which comes after it, divides by the batch's standard deviation."""
    ids = rewards.group_ids
    process = rewards.process - group_mean(masked_mean(rewards.process, rewards.rewarded), ids)[:, None]
    return earned_ahead(rewards, choices, process, rewards.outcome - group_mean(rewards.outcome, ids))


def contradictions(*, whiten_advantages: bool) -> Iterator[str]:
    if not whiten_advantages:
        yield (
            'algorithm.estimator = "reinforce_baseline" scales by the standard deviation of the whole batch, which is what '
            "algorithm.whiten_advantages = false leaves out: set algorithm.whiten_advantages=true, or algorithm.estimator=grpo with "
            "algorithm.divide_by_std=false"
        )


ESTIMATOR = Estimator(
    about="REINFORCE++-baseline, the group's mean as the baseline and whitening for the scale",
    source="arXiv 2501.03262",
    formulas=(
        process_part("P_t = sum_{s>=t} g^(s-t) (r_s - mean of m_j over the group)"),
        outcome_part("O_t = g^(T-t) (r_o - mean of r_o over the group)"),
    ),
    estimate=reinforce_baseline,
    by_group=True,
    needs=frozenset({Need.SIBLINGS}),
    contradictions=contradictions,
)
