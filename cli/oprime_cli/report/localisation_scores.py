"""How well step scores find the first wrong step of a chain. Pure numbers: arrays in, shares out. Low scores are suspicious."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

NONE_WRONG = -1
"""Stands for the first wrong step of a right chain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Localisation:
    auc: float
    top1: float
    f1: float
    threshold: float
    found_wrong: float
    """Share of wrong chains, in the second half, whose first wrong step is named."""
    passed_right: float
    """Share of right chains, in the second half, of which no step is called wrong."""


def localise(
    wrong: Float[np.ndarray, "wrong step"],
    is_wrong_step: Bool[np.ndarray, "wrong step"],
    right: Float[np.ndarray, "right step"],
) -> Localisation:
    """AUC and top-1 over all chains; F1 on the second half of them, with the threshold that is best on the first.

    Every row of `is_wrong_step` must have a wrong step. Raises ValueError when there are too few chains to halve.
    """
    if min(len(wrong), len(right)) < 2:
        raise ValueError(f"{len(wrong)} wrong and {len(right)} right chains cannot be halved: give at least 2 of each")
    first_wrong = is_wrong_step.argmax(axis=1)
    wrong_half, right_half = len(wrong) // 2, len(right) // 2
    threshold = best_threshold(wrong[:wrong_half], first_wrong[:wrong_half], right[:right_half])
    found, passed = found_and_passed(wrong[wrong_half:], first_wrong[wrong_half:], right[right_half:], threshold)
    return Localisation(
        auc=first_wrong_auc(wrong, is_wrong_step, right),
        top1=float((wrong.argmin(axis=1) == first_wrong).mean()),
        f1=harmonic_mean(found, passed),
        threshold=threshold,
        found_wrong=found,
        passed_right=passed,
    )


def first_wrong_auc(
    wrong: Float[np.ndarray, "wrong step"],
    is_wrong_step: Bool[np.ndarray, "wrong step"],
    right: Float[np.ndarray, "right step"],
) -> float:
    """Share of pairs (first wrong step, right step of any chain) in which the wrong one scores lower; ties count half.

    Wrong steps after the first are on neither side: they are wrong, but not what is looked for.
    """
    first_wrong = wrong[np.arange(len(wrong)), is_wrong_step.argmax(axis=1)]
    others = np.sort(np.concatenate([wrong[~is_wrong_step], right.ravel()]))
    above = len(others) - np.searchsorted(others, first_wrong, side="right")
    not_below = len(others) - np.searchsorted(others, first_wrong, side="left")
    return float((above + not_below).mean() / (2 * len(others)))


def named_step(scores: Float[np.ndarray, "chain step"], threshold: float) -> Int[np.ndarray, " chain"]:
    """The first step of each chain that scores below the threshold, or NONE_WRONG."""
    below = scores < threshold
    return np.where(below.any(axis=1), below.argmax(axis=1), NONE_WRONG)


def found_and_passed(
    wrong: Float[np.ndarray, "wrong step"],
    first_wrong: Int[np.ndarray, " wrong"],
    right: Float[np.ndarray, "right step"],
    threshold: float,
) -> tuple[float, float]:
    """Share of wrong chains whose first wrong step is named, and share of right chains in which none is."""
    found = named_step(wrong, threshold) == first_wrong
    passed = named_step(right, threshold) == NONE_WRONG
    return float(found.mean()), float(passed.mean())


def best_threshold(
    wrong: Float[np.ndarray, "wrong step"], first_wrong: Int[np.ndarray, " wrong"], right: Float[np.ndarray, "right step"]
) -> float:
    """The threshold with the highest F1, among the middles between neighbouring scores."""
    scores = np.unique(np.concatenate([wrong.ravel(), right.ravel()]))
    middles = (scores[:-1] + scores[1:]) / 2 if len(scores) > 1 else scores
    quality = [harmonic_mean(*found_and_passed(wrong, first_wrong, right, middle)) for middle in middles]
    return float(middles[int(np.argmax(quality))])


def harmonic_mean(a: float, b: float) -> float:
    """2ab / (a + b), ProcessBench's F1 of two shares; 0 when both are 0."""
    return 2 * a * b / (a + b) if a + b > 0 else 0.0
