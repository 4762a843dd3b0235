"""How old a rollout's weights may be, and how many groups may be under way so that none becomes too old.

Train steps count from 1. Step t turns weight version t - 1 into t, so the newest version is the last committed step.
S is the staleness bound: a group is used at step t only if (t - 1) - its oldest weight version <= S.
"""

import math
from fractions import Fraction

_FINEST_RATE = 1_000_000


def rollout_staleness(step: int, oldest_version: int) -> int:
    """Weight versions between the one that `step` starts from and the oldest that sampled the rollout.

    Negative for weights newer than the step's, which a run that went back to a checkpoint may hold.
    """
    return (step - 1) - oldest_version


def usable(step: int, oldest_version: int, max_staleness: int) -> bool:
    """Whether a group (or rollout) whose oldest token has `oldest_version` may be used at `step`."""
    return rollout_staleness(step, oldest_version) <= max_staleness


def last_usable_step(oldest_version: int, max_staleness: int) -> int:
    """Last step at which a group whose oldest token has `oldest_version` may be used."""
    return oldest_version + max_staleness + 1


def min_weight_version(expected_step: int, max_staleness: int) -> int:
    """Oldest weight version that may sample a group expected to be used at `expected_step`."""
    return max(0, expected_step - 1 - max_staleness)


def expected_step(next_step: int, *, groups_per_batch: int, ready_groups: int, live_groups: int, acceptance: float) -> int:
    """Step that would use one more group, issued now: those before it fill `groups_per_batch` places a step.

    `next_step` is the next batch to cut. `ready_groups` wait for it; of the `live_groups` that are still undecided, the
    share `acceptance` in (0, 1] will pass the filter.
    """
    _check_counts(groups_per_batch=groups_per_batch, ready_groups=ready_groups, live_groups=live_groups)
    before = ready_groups + live_groups * _rate(acceptance)
    return next_step + math.floor(before / groups_per_batch)


def admissible_groups(
    committed_step: int,
    *,
    next_step: int,
    max_staleness: int,
    groups_per_batch: int,
    ready_groups: int,
    live_groups: int,
    acceptance: float,
    decided: float = math.inf,
    sigmas: float = 0.0,
) -> int:
    """Number of groups that may be issued now, so that those which pass the filter find places before they are too stale.

    `committed_step` is the newest weight version, `next_step` the next batch to cut; the batches between them are cut
    but not committed. The steps up to committed_step + S + 1 can use a group that is issued now; `ready_groups` have
    places there already. Of the `live_groups` and the new ones the share `acceptance` will pass, known from `decided`
    groups. With `sigmas` = 0 as many are admitted as fill the places on average, so half of the time some groups more
    pass than there are places for; with `sigmas` standard deviations of what will pass, that becomes a rarity. As many as
    there are places if all pass are always admitted.

    While nothing is live and the next batch is not full, the answer is positive as soon as at most S batches are cut
    but not committed. Raises ValueError for counts that contradict each other.
    """
    _check_counts(groups_per_batch=groups_per_batch, ready_groups=ready_groups, live_groups=live_groups)
    if max_staleness < 0:
        raise ValueError(f"max_staleness ({max_staleness}) must not be negative")
    if committed_step >= next_step:
        raise ValueError(f"committed_step ({committed_step}) must be below next_step ({next_step}): a step is cut before it is committed")
    last_step = last_usable_step(committed_step, max_staleness)
    free = (last_step - next_step + 1) * groups_per_batch - ready_groups
    rate = _rate(acceptance)
    most = math.ceil(free / rate)
    if sigmas > 0:
        most = max(free, _most_that_fit(free, float(rate), decided, sigmas))
    return max(0, most - live_groups)


def _most_that_fit(free: int, rate: float, decided: float, sigmas: float) -> int:
    """Largest n of which, `sigmas` above the mean, at most `free` pass: the dice of n groups, and what is not known of the rate."""

    def fits(n: int) -> bool:
        return n * rate + sigmas * math.sqrt(n * rate * (1 - rate) * (1 + n / decided)) <= free

    low, high = 0, max(0, math.ceil(free / rate))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _rate(acceptance: float) -> Fraction:
    """As an exact fraction, so that 7 groups at a rate of 0.7 are 10, not 11."""
    if not 0 < acceptance <= 1:
        raise ValueError(f"acceptance ({acceptance}) must be above 0 and at most 1: start an unknown rate at 1")
    return max(Fraction(acceptance).limit_denominator(_FINEST_RATE), Fraction(1, _FINEST_RATE))


def _check_counts(*, groups_per_batch: int, ready_groups: int, live_groups: int) -> None:
    if groups_per_batch < 1 or ready_groups < 0 or live_groups < 0:
        raise ValueError(
            f"groups_per_batch ({groups_per_batch}) must be positive, "
            f"ready_groups ({ready_groups}) and live_groups ({live_groups}) must not be negative"
        )
