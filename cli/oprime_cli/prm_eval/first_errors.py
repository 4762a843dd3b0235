"""ProcessBench's question: is the first step that scores below a threshold the first wrong one? Pure numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from oprime_cli.prm_eval.step_scores import matrix
from oprime_cli.report.localisation_scores import best_threshold, found_and_passed, harmonic_mean


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstErrors:
    """At one threshold, over solutions that it was not chosen on."""

    threshold: float
    f1: float
    """Harmonic mean of the two shares, as ProcessBench defines it."""
    found_wrong: float
    """Share of wrong solutions whose first wrong step is named."""
    passed_right: float
    """Share of right solutions in which no step is called wrong."""


def first_errors(
    scores: Sequence[Float[np.ndarray, " step"]], first_wrong: Sequence[int], *, threshold: float | None = None
) -> FirstErrors:
    """Of every other wrong and every other right solution; the threshold is `threshold`, or the best one on the rest.

    `first_wrong` is -1 for a right solution. Raises ValueError when there are fewer than 2 wrong or 2 right ones.
    """
    labels = np.asarray(first_wrong)
    everything = matrix(scores)
    wrong, right, at = everything[labels >= 0], everything[labels < 0], labels[labels >= 0]
    if min(len(wrong), len(right)) < 2:
        raise ValueError(f"{len(wrong)} wrong and {len(right)} right solutions cannot be halved: give at least 2 of each")
    chosen = best_threshold(wrong[::2], at[::2], right[::2]) if threshold is None else threshold
    found, passed = found_and_passed(wrong[1::2], at[1::2], right[1::2], chosen)
    return FirstErrors(threshold=chosen, f1=harmonic_mean(found, passed), found_wrong=found, passed_right=passed)
