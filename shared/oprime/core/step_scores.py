"""Scores of reasoning steps and responses from process rewards, as an offline implicit PRM is used (paper, section 5.1)."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

StepScore = Literal["single", "cumulative"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepScores:
    single: Float[Tensor, " step"]
    """Sum of the step's own process rewards."""
    cumulative: Float[Tensor, " step"]
    """Sum of all process rewards up to the step's end: the value of what was written so far."""

    def of(self, kind: StepScore) -> Float[Tensor, " step"]:
        return self.single if kind == "single" else self.cumulative


def step_scores(process_rewards: Float[Tensor, " token"], step_ends: Sequence[int]) -> StepScores:
    """Scores of the steps that end before the tokens `step_ends`; the last one ends the response.

    Raises ValueError unless the ends grow and the last is the number of tokens.
    """
    bounds = [0, *step_ends]
    if any(end <= start for start, end in pairwise(bounds)) or bounds[-1] != len(process_rewards):
        raise ValueError(f"step ends {list(step_ends)} must grow and end at the {len(process_rewards)} tokens of the response")
    ends = torch.tensor([end - 1 for end in step_ends], dtype=torch.int64, device=process_rewards.device)
    cumulative = process_rewards.cumsum(0)[ends]
    single = torch.stack([process_rewards[start:end].sum() for start, end in pairwise(bounds)]) if step_ends else cumulative
    return StepScores(single=single, cumulative=cumulative)


def response_score(scores: Float[Tensor, " step"], reduction: Literal["min", "sum", "mean"]) -> float:
    """One number for best-of-N: the weakest step, or all together."""
    return float(getattr(scores, reduction)())


def first_error(cumulative: Float[Tensor, " step"], threshold: float) -> int | None:
    """The first step whose sigmoid(score) is below the threshold; None if there is none."""
    below = (torch.sigmoid(cumulative) < threshold).nonzero().flatten()
    return int(below[0]) if len(below) else None
