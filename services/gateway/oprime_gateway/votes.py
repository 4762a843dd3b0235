"""Choosing among responses to one prompt. Pure: no network, no clock."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Weight(StrEnum):
    """What a response's vote counts."""

    SIGMOID = "sigmoid"
    """The probability of being right that the PRM's cross-entropy loss trains: sigmoid of the reward."""
    SOFTMAX = "softmax"
    """exp(reward), as a share of all votes."""
    NONE = "none"
    """1: a majority vote."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    answer: str
    weight: float
    responses: tuple[int, ...]
    """Places, the one of the highest reward first."""


def ranked(rewards: Mapping[int, float]) -> list[int]:
    """Places of the responses, the highest reward first; of equal ones the first."""
    return sorted(rewards, key=lambda place: (-rewards[place], place))


def weights(rewards: Mapping[int, float], weight: Weight) -> dict[int, float]:
    match weight:
        case Weight.SIGMOID:
            return {place: 0.5 + 0.5 * math.tanh(reward / 2) for place, reward in rewards.items()}
        case Weight.SOFTMAX:
            highest = max(rewards.values(), default=0.0)
            exponentials = {place: math.exp(reward - highest) for place, reward in rewards.items()}
            total = math.fsum(exponentials.values())
            return {place: value / total for place, value in exponentials.items()}
        case Weight.NONE:
            return dict.fromkeys(rewards, 1.0)


def count(answers: Sequence[tuple[str, Sequence[int]]], rewards: Mapping[int, float], weight: Weight) -> list[Vote]:
    """Votes for answers, each with the places of the responses that give it.

    The heaviest comes first, of equal ones that of the best response.
    """
    of_response = weights(rewards, weight)
    votes = [
        Vote(
            answer=answer,
            weight=math.fsum(of_response[place] for place in places),
            responses=tuple(ranked({place: rewards[place] for place in places})),
        )
        for answer, places in answers
    ]
    best_first = {place: rank for rank, place in enumerate(ranked(rewards))}
    return sorted(votes, key=lambda vote: (-vote.weight, best_first[vote.responses[0]]))
