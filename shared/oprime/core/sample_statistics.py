"""What is reported of k samples per problem, and how sure it is.

avg@n is the mean score of n samples. pass@k is the unbiased estimate of the chance that one of k samples is right, from n >= k samples
(Chen et al., arXiv 2107.03374, Eq. 1). maj@k is the score of the answer that most of k samples give. Intervals are percentiles of a
bootstrap over problems.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
import numpy.typing as npt

RESAMPLES = 10_000
LEVEL = 0.95
_CHUNK = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean over problems, and the interval that holds LEVEL of the means of resampled problems."""

    value: float
    low: float
    high: float


def pass_at_k(samples: int, right: int, k: int) -> float:
    """1 - C(n - c, k) / C(n, k). Raises ValueError for fewer than k samples."""
    if not 1 <= k <= samples or not 0 <= right <= samples:
        raise ValueError(f"pass@{k} of {right} right among {samples} samples: k must be from 1 to the number of samples")
    return 1.0 - comb(samples - right, k) / comb(samples, k)


def majority_at_k(answers: Sequence[int | None], scores: Sequence[float], k: int) -> float:
    """Mean score of the most frequent answer over all disjoint runs of k samples that stand side by side.

    `answers` has a number for each sample, equal for equal answers, None where there is none. The earliest answer wins a tie; where no
    sample answers, the score is 0. Raises ValueError for fewer than k samples.
    """
    if not 1 <= k <= len(answers):
        raise ValueError(f"maj@{k} of {len(answers)} samples: k must be from 1 to the number of samples")
    starts = range(0, len(answers) - k + 1, k)
    return float(np.mean([_majority(answers[start : start + k], scores[start : start + k]) for start in starts]))


def _majority(answers: Sequence[int | None], scores: Sequence[float]) -> float:
    votes: dict[int, int] = {}
    for answer in answers:
        if answer is not None:
            votes[answer] = votes.get(answer, 0) + 1
    if not votes:
        return 0.0
    chosen = max(votes, key=votes.__getitem__)
    return float(scores[list(answers).index(chosen)])


def estimate(values: Sequence[float], *, seed: int = 0) -> Estimate:
    """The mean of one value per problem. Raises ValueError without a value."""
    if not values:
        raise ValueError("there is no problem to take a mean over")
    array = np.asarray(values, dtype=np.float64)
    low, high = np.quantile(_resampled_means(array, seed), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value=float(array.mean()), low=float(low), high=float(high))


def paired_difference(first: Sequence[float], second: Sequence[float], *, seed: int = 0) -> Estimate:
    """The mean of second - first, where equal places belong to the same problem: problems are resampled, not the two apart."""
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} problems: a paired difference needs the same ones on both sides")
    return estimate([new - old for old, new in zip(first, second, strict=True)], seed=seed)


def _resampled_means(values: npt.NDArray[np.float64], seed: int) -> npt.NDArray[np.float64]:
    random, size = np.random.default_rng(seed), len(values)
    parts = [values[random.integers(size, size=(_CHUNK, size))].mean(axis=1) for _ in range(RESAMPLES // _CHUNK)]
    return np.concatenate(parts)
