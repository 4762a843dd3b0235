"""Best of N: which response to trust, of N to the same prompt. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Choose = Callable[["Candidates"], float]
"""The outcome reward of what is chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """Responses to one prompt, in the order in which they were sampled."""

    outcome_rewards: Sequence[float]
    answers: Sequence[str]
    """Empty where a response answers nothing."""
    scores: Mapping[str, Sequence[float]]
    """The PRM's score of each response, by the name of the way it comes about."""

    def __len__(self) -> int:
        return len(self.outcome_rewards)

    def part(self, start: int, end: int) -> "Candidates":
        return Candidates(
            outcome_rewards=self.outcome_rewards[start:end],
            answers=self.answers[start:end],
            scores={way: values[start:end] for way, values in self.scores.items()},
        )


def first(candidates: Candidates) -> float:
    return candidates.outcome_rewards[0]


def any_right(candidates: Candidates) -> float:
    """Pass@N: what one would get who always knew."""
    return max(candidates.outcome_rewards)


def majority(candidates: Candidates) -> float:
    """The answer that most responses give."""
    return _by_votes(candidates, [1.0] * len(candidates))


def best_scored(way: str) -> Choose:
    """The response with the highest score."""
    return lambda candidates: candidates.outcome_rewards[int(np.argmax(candidates.scores[way]))]


def weighted_majority(way: str) -> Choose:
    """The answer with the highest sum of sigmoid(score)."""
    return lambda candidates: _by_votes(candidates, [_sigmoid(score) for score in candidates.scores[way]])


def best_of_n(prompts: Sequence[Candidates], n: int, choose: Choose) -> float:
    """Mean outcome of the choices of `choose`, over all disjoint runs of n responses that stand side by side; each prompt counts once.

    Prompts with fewer responses are left out. Raises ValueError when none has as many.
    """
    means = [np.mean([choose(one.part(start, start + n)) for start in range(0, len(one) - n + 1, n)]) for one in prompts if len(one) >= n]
    if not means:
        raise ValueError(f"no prompt has {n} responses: ask for fewer")
    return float(np.mean(means))


def _by_votes(candidates: Candidates, votes: Sequence[float]) -> float:
    """The outcome of the first response whose answer has the most votes; the earliest answer wins a tie. The first response's where none
    answers."""
    totals: dict[str, float] = {}
    for answer, vote in zip(candidates.answers, votes, strict=True):
        if answer:
            totals[answer] = totals.get(answer, 0.0) + vote
    if not totals:
        return first(candidates)
    chosen = max(totals, key=totals.__getitem__)
    return candidates.outcome_rewards[list(candidates.answers).index(chosen)]


def _sigmoid(score: float) -> float:
    return float(0.5 * (1 + np.tanh(score / 2)))
