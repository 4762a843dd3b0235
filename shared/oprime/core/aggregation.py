"""How the losses of tokens become the loss of an optimizer step.

Every token gets its share of the whole step, so the sum over micro-batches and ranks is the same however the step is split.
"""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float, Int

from oprime.core.checked import checked
from oprime.core.tensors import Tensor

Aggregation = Literal["tokens", "sequences", "groups"]
AGGREGATION_FORMULAS: dict[Aggregation, str] = {
    "tokens": "sum over tokens of L_t / all response tokens of the optimizer step",
    "sequences": "mean over rollouts of the mean of L_t over the response",
    "groups": "mean over groups of the mean of L_t over all tokens of the group",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCounts:
    """What one optimizer step consists of, over all its micro-batches and ranks."""

    tokens: int
    """Response tokens."""
    rollouts: int
    groups: int


@checked
def token_shares(
    is_trained: Bool[Tensor, "rollout token"], group_tokens: Int[Tensor, " rollout"], counts: StepCounts, *, aggregation: Aggregation
) -> Float[Tensor, "rollout token"]:
    """Each response token's weight in the loss of the step, float64; 0 outside the response.

    `group_tokens` is the number of response tokens of each rollout's whole group. Raises ValueError for a step without tokens.
    """
    if min(counts.tokens, counts.rollouts, counts.groups) < 1:
        raise ValueError(f"an optimizer step with {counts} has no loss: pass the counts of the whole step, not of a micro-batch")
    if aggregation == "tokens":
        divisor = group_tokens.new_full(group_tokens.shape, counts.tokens)
    elif aggregation == "sequences":
        divisor = counts.rollouts * is_trained.sum(dim=1).clamp(min=1)
    else:
        divisor = counts.groups * group_tokens
    return is_trained.double() / divisor[:, None]
