"""The online prompt filter: which groups are worth training on (paper, section 4.1)."""

from collections.abc import Sequence

ACCURACY_LOW = "accuracy_low"
ACCURACY_HIGH = "accuracy_high"
TRUNCATED = "truncated"


def filter_reason(
    outcome_rewards: Sequence[float],
    any_truncated: bool,
    *,
    low: float,
    high: float,
    drop_truncated: bool,
    tolerance: float = 1e-6,
) -> str | None:
    """Say why a group is left out, or None if it is kept.

    A group is kept if low <= mean outcome reward <= high, both ends included; `tolerance` absorbs rounding of the mean.
    Raises ValueError for a group without rollouts.
    """
    if not outcome_rewards:
        raise ValueError("a group without rollouts has no mean outcome reward: drop it before the filter")
    if drop_truncated and any_truncated:
        return TRUNCATED
    mean = sum(outcome_rewards) / len(outcome_rewards)
    if mean < low - tolerance:
        return ACCURACY_LOW
    if mean > high + tolerance:
        return ACCURACY_HIGH
    return None
