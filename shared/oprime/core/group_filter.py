"""The online prompt filter: which groups are worth training on (paper, section 4.1)."""

from collections.abc import Sequence
from dataclasses import dataclass

ACCURACY_LOW = "accuracy_low"
ACCURACY_HIGH = "accuracy_high"
TRUNCATED = "truncated"
ZERO_VARIANCE = "zero_variance"
OVER_LENGTH = "over_length"
FILTER_REASONS = (ACCURACY_LOW, ACCURACY_HIGH, TRUNCATED, ZERO_VARIANCE, OVER_LENGTH)

TOLERANCE = 1e-6
"""Absorbs rounding of a mean: 0.5, 0.1, 0.1, 0.1 average 0.2, but not quite so in floating point."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterRules:
    low: float = 0.0
    """Smallest mean outcome reward of a kept group."""
    high: float = 1.0
    """Largest mean outcome reward of a kept group."""
    drop_truncated: bool = False
    """Leave out groups with a response that was cut at the token limit."""
    drop_zero_variance: bool = False
    """Leave out groups whose outcome rewards are all equal."""
    longest_response: int | None = None
    """Leave out groups with a response of more tokens."""


def filter_reason(
    outcome_rewards: Sequence[float], response_lengths: Sequence[int], *, any_truncated: bool, rules: FilterRules
) -> str | None:
    """Say why a group is left out, or None if it is kept. Lengths are in tokens, the end token included.

    Rules are tried in the order truncated, over-length, accuracy, zero variance; the first that fails is the reason. Both ends
    of the accuracy band are kept. Raises ValueError for a group without rollouts.
    """
    if not outcome_rewards:
        raise ValueError("a group without rollouts has no mean outcome reward: drop it before the filter")
    mean = sum(outcome_rewards) / len(outcome_rewards)
    tests = (
        (TRUNCATED, rules.drop_truncated and any_truncated),
        (OVER_LENGTH, rules.longest_response is not None and max(response_lengths, default=0) > rules.longest_response),
        (ACCURACY_LOW, mean < rules.low - TOLERANCE),
        (ACCURACY_HIGH, mean > rules.high + TOLERANCE),
        (ZERO_VARIANCE, rules.drop_zero_variance and max(outcome_rewards) - min(outcome_rewards) <= TOLERANCE),
    )
    return next((reason for reason, fails in tests if fails), None)
