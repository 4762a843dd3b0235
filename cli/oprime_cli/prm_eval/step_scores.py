"""Scores of reasoning steps from rewards of tokens. Pure numbers: arrays in, arrays out. Low scores are suspicious."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

BEYOND = np.inf
"""The score of a step that is not there, or that the model's context did not reach: never suspicious."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoredSteps:
    """Scores of the steps of one solution, by the name of the way they come about."""

    scores: Mapping[str, Float[np.ndarray, " step"]]
    cut: bool
    """Whether some step lies beyond the model's context."""


PROCESS = ("single_sum", "single_mean", "cumulative_sum", "cumulative_mean")
"""From process rewards: of the step's own tokens, or of all up to its end. The only scores that 0 means something for."""
BASELINES = ("reference_logprob", "prm_logprob")
"""What the two models think of the step's own tokens, as a mean: no reward at all."""
WAYS = (*PROCESS, *BASELINES)


def steps_of_tokens(ends: Sequence[int], steps: Sequence[str], separator: str) -> Int[np.ndarray, " token"]:
    """The step that each token of a response belongs to: the one in which its last character lies, with the separator after it.

    `ends` says up to which character of `separator.join(steps)` each token goes.
    """
    lengths = [len(step) + len(separator) for step in steps]
    lengths[-1] -= len(separator)
    return np.minimum(np.searchsorted(np.cumsum(lengths), ends, side="left"), len(steps) - 1)


def step_scores(
    process_rewards: Float[np.ndarray, " token"],
    reference_logprobs: Float[np.ndarray, " token"],
    prm_logprobs: Float[np.ndarray, " token"],
    step_of_token: Int[np.ndarray, " token"],
    steps: int,
) -> ScoredSteps:
    """Scores in all `WAYS`, of as many tokens as there are scores; steps that none of them reaches score BEYOND.

    A step without a token of its own, which ends inside the next one's first, has sums and means of 0.
    """
    known = len(process_rewards)
    own = step_of_token[:known]
    beyond = np.arange(steps) >= _whole_steps(step_of_token, known)
    sums, counts = _by_step(process_rewards, own, steps), np.bincount(own, minlength=steps)
    totals, places = np.cumsum(sums), np.maximum(np.cumsum(counts), 1)
    tokens = np.maximum(counts, 1)
    scores = {
        "single_sum": sums,
        "single_mean": sums / tokens,
        "cumulative_sum": totals,
        "cumulative_mean": totals / places,
        "reference_logprob": _by_step(reference_logprobs, own, steps) / tokens,
        "prm_logprob": _by_step(prm_logprobs, own, steps) / tokens,
    }
    return ScoredSteps(scores={name: np.where(beyond, BEYOND, values) for name, values in scores.items()}, cut=bool(beyond.any()))


def _whole_steps(step_of_token: Int[np.ndarray, " token"], known: int) -> int:
    """How many steps end within the first `known` tokens."""
    if known == len(step_of_token):
        return int(step_of_token[-1]) + 1 if known else 0
    return int(step_of_token[known])


def _by_step(values: Float[np.ndarray, " token"], step: Int[np.ndarray, " token"], steps: int) -> Float[np.ndarray, " step"]:
    return np.bincount(step, weights=values, minlength=steps)


def matrix(rows: Sequence[Float[np.ndarray, " step"]]) -> Float[np.ndarray, "solution step"]:
    """Scores of solutions of different length side by side; what is not there is BEYOND."""
    found = np.full((len(rows), max(map(len, rows), default=0)), BEYOND)
    for place, row in enumerate(rows):
        found[place, : len(row)] = row
    return found
