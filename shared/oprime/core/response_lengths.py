"""What became of rollouts by the length of their responses: a run that never trains on its slow prompts must be seen to do so.

Lengths are counted in buckets whose upper bounds are powers of two, so that there are few of them at any scale.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

TRAINED, FILTERED, STALE, DROPPED = "trained", "filtered", "stale", "dropped"
FATES = (TRAINED, FILTERED, STALE, DROPPED)
"""Trained on; left out by the prompt filter; dropped because the weights of its tokens became too old; dropped for another reason."""

LARGEST_BUCKET = 2**20
LEAST_ROLLOUTS = 32
"""Fewer say nothing about a share."""
ALARMING_DIFFERENCE = 0.25
_PREFIX, _UNIT = "_to_", "_tokens"


def bucket_of(tokens: int) -> int:
    """The smallest power of two that is at least `tokens`, and at most `LARGEST_BUCKET`. Raises ValueError below 1."""
    if tokens < 1:
        raise ValueError(f"a response of {tokens} tokens has no bucket: it needs at least 1")
    return min(1 << (tokens - 1).bit_length(), LARGEST_BUCKET)


def metric_name(fate: str, tokens: int) -> str:
    """The metric that counts the rollouts of a step that had this fate and about this many response tokens."""
    return f"{fate}{_PREFIX}{bucket_of(tokens)}{_UNIT}"


def fate_and_bucket(metric: str) -> tuple[str, int] | None:
    """What `metric_name` made the name from; None for other metrics."""
    fate, found, bound = metric.removesuffix(_UNIT).partition(_PREFIX)
    return (fate, int(bound)) if found and metric.endswith(_UNIT) and fate in FATES and bound.isdecimal() else None


def rollouts_by_length(rows: Iterable[Mapping[str, object]]) -> dict[int, Counter[str]]:
    """Bucket -> rollouts by fate, summed over rows of metrics; shortest first."""
    table: dict[int, Counter[str]] = {}
    for row in rows:
        for name, value in row.items():
            known = fate_and_bucket(name)
            if known is not None and isinstance(value, int | float):
                table.setdefault(known[1], Counter())[known[0]] += round(value)
    return dict(sorted(table.items()))


def long_ones_are_lost(table: Mapping[int, Mapping[str, int]]) -> str:
    """A sentence when the longest responses become stale much more often than the others; else empty.

    The longest are the last buckets that together hold `LEAST_ROLLOUTS` rollouts.
    """
    finished = {bucket: (fates.get(STALE, 0), fates.get(STALE, 0) + fates.get(TRAINED, 0)) for bucket, fates in sorted(table.items())}
    stale = total = 0
    while finished and total < LEAST_ROLLOUTS:
        _, (more_stale, more) = finished.popitem()
        stale, total = stale + more_stale, total + more
    others = sum(count for _, count in finished.values())
    if total < LEAST_ROLLOUTS or others < LEAST_ROLLOUTS:
        return ""
    share, share_of_others = stale / total, sum(count for count, _ in finished.values()) / others
    if share - share_of_others < ALARMING_DIFFERENCE:
        return ""
    return (
        f"{share:.0%} of the rollouts with more than {max(finished)} response tokens became stale before they could be trained on, of the "
        f"shorter ones {share_of_others:.0%}: prompts with long responses are hardly trained on; raise staleness.max_staleness, add "
        "generators, or lower sampling.max_response_tokens"
    )
