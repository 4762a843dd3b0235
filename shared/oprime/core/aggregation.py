"""How the losses of tokens become the loss of an optimizer step.

Every token gets its share of the whole step, so the sum over micro-batches and ranks is the same however the step is split.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Aggregation = Literal["tokens", "sequences", "groups"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCounts:
    """What one optimizer step consists of, over all its micro-batches and ranks."""

    tokens: int
    """Response tokens."""
    rollouts: int
    groups: int


def token_shares(
    is_response: Bool[Tensor, "rollout token"], group_tokens: Int[Tensor, " rollout"], counts: StepCounts, *, aggregation: Aggregation
) -> Float[Tensor, "rollout token"]:
    """Each response token's weight in the loss of the step, float64; 0 outside the response.

    `tokens`: all tokens of the step weigh the same. `sequences`: all rollouts do, and within one its tokens. `groups`: all
    groups do, and within one the tokens of all its rollouts. `group_tokens` is the number of response tokens of each
    rollout's whole group. Raises ValueError for a step without tokens.
    """
    if min(counts.tokens, counts.rollouts, counts.groups) < 1:
        raise ValueError(f"an optimizer step with {counts} has no loss: pass the counts of the whole step, not of a micro-batch")
    if aggregation == "tokens":
        divisor = torch.full_like(group_tokens, counts.tokens)
    elif aggregation == "sequences":
        divisor = counts.rollouts * is_response.sum(dim=1).clamp(min=1)
    else:
        divisor = counts.groups * group_tokens
    return is_response.double() / divisor[:, None]
