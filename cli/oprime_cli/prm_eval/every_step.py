"""PRMBench's question: which steps are right, and which are wrong? Pure numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

CANDIDATES = 512
"""Thresholds that are tried, at even quantiles of the scores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EveryStep:
    """At one threshold, over the steps of solutions that it was not chosen on."""

    threshold: float
    prm_score: float | None
    """Mean of the two F1; None where one is None."""
    right_f1: float | None
    """F1 of calling a step right; None where no step is."""
    wrong_f1: float | None
    """F1 of calling a step wrong; None where no step is."""


def every_step(
    scores: Sequence[Float[np.ndarray, " step"]], wrong_steps: Sequence[Sequence[int]], *, threshold: float | None = None
) -> EveryStep:
    """Of every other solution; the threshold is `threshold`, or the one with the highest PRMScore on the rest.

    Raises ValueError for fewer than 2 solutions.
    """
    if len(scores) < 2:
        raise ValueError(f"{len(scores)} solutions cannot be halved: give at least 2")
    chosen = _best_threshold(*_flat(scores[::2], wrong_steps[::2])) if threshold is None else threshold
    return _at(*_flat(scores[1::2], wrong_steps[1::2]), chosen)


def _flat(
    scores: Sequence[Float[np.ndarray, " step"]], wrong_steps: Sequence[Sequence[int]]
) -> tuple[Float[np.ndarray, " step"], Bool[np.ndarray, " step"]]:
    """All steps in one row, and which of them are wrong."""
    marks = [np.isin(np.arange(len(row)), list(wrong)) for row, wrong in zip(scores, wrong_steps, strict=True)]
    return np.concatenate(list(scores)), np.concatenate(marks)


def _best_threshold(scores: Float[np.ndarray, " step"], is_wrong: Bool[np.ndarray, " step"]) -> float:
    finite = scores[np.isfinite(scores)]
    if not len(finite):
        return 0.0
    candidates = np.unique(np.quantile(finite, np.linspace(0, 1, CANDIDATES)))
    quality = [_at(scores, is_wrong, float(candidate)) for candidate in candidates]
    return max(quality, key=lambda found: -1.0 if found.prm_score is None else found.prm_score).threshold


def _at(scores: Float[np.ndarray, " step"], is_wrong: Bool[np.ndarray, " step"], threshold: float) -> EveryStep:
    called_wrong = scores < threshold
    right, wrong = _f1(~called_wrong, ~is_wrong), _f1(called_wrong, is_wrong)
    both = None if right is None or wrong is None else (right + wrong) / 2
    return EveryStep(threshold=threshold, prm_score=both, right_f1=right, wrong_f1=wrong)


def _f1(called: Bool[np.ndarray, " step"], true: Bool[np.ndarray, " step"]) -> float | None:
    """2 TP / (called + true)."""
    return 2 * float((called & true).sum()) / float(called.sum() + true.sum()) if true.any() else None
