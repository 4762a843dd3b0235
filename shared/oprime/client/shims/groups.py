"""Advantages of the rollouts of one prompt from token rewards and outcomes (PRIME, arXiv 2502.01456, Eq. 5). Pure lists, no torch."""

import math
from collections.abc import Sequence


def leave_one_out_advantages(
    token_rewards: Sequence[Sequence[float]], outcomes: Sequence[float] | None = None, *, discount: float = 1.0, process_weight: float = 1.0
) -> list[list[float]]:
    """One advantage per token: rewards to come less a baseline, plus how far the outcome is ahead of its siblings' mean.

    A_t = w * sum_{s>=t} g^(s-t) (r_s - mean of m_j over the siblings j) + (r_o - mean of r_o over the siblings), where m_j is the mean
    token reward of sibling j. Raises ValueError for a group of one, which has nothing to be compared with.
    """
    if len(token_rewards) < 2:
        raise ValueError(f"a group of {len(token_rewards)} rollouts has no siblings to compare with: sample at least 2 per prompt")
    if outcomes is not None and len(outcomes) != len(token_rewards):
        raise ValueError(f"{len(outcomes)} outcomes for {len(token_rewards)} rollouts: give one for each")
    means = [math.fsum(rewards) / max(1, len(rewards)) for rewards in token_rewards]
    baselines, ahead = _of_siblings(means), _ahead(outcomes or [0.0] * len(token_rewards))
    return [
        [process_weight * reward + outcome for reward in _to_come([reward - baseline for reward in rewards], discount)]
        for rewards, baseline, outcome in zip(token_rewards, baselines, ahead, strict=True)
    ]


def _ahead(values: Sequence[float]) -> list[float]:
    return [value - baseline for value, baseline in zip(values, _of_siblings(values), strict=True)]


def _of_siblings(values: Sequence[float]) -> list[float]:
    """For each the mean of the others."""
    total = math.fsum(values)
    return [(total - value) / (len(values) - 1) for value in values]


def _to_come(rewards: Sequence[float], discount: float) -> list[float]:
    """The discounted sum from each token to the end."""
    sums, total = list[float](), 0.0
    for reward in reversed(rewards):
        total = reward + discount * total
        sums.append(total)
    return sums[::-1]
