"""How the losses of tokens become the loss of an optimizer step.

Every token gets its share of the whole step, so the sum over micro-batches and ranks is the same however the step is split.
"""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float, Int

from oprime.core.checked import checked
from oprime.core.tensors import Tensor

Aggregation = Literal["tokens", "sequences", "sequence_sums", "constant", "groups"]
AGGREGATION_FORMULAS: dict[Aggregation, str] = {
    "tokens": "sum over tokens of L_t / all response tokens of the optimizer step",
    "sequences": "mean over rollouts of the mean of L_t over the response",
    "sequence_sums": "mean over rollouts of the sum of L_t over the response",
    "constant": "mean over rollouts of the sum of L_t over the response / M",
    "groups": "mean over groups of the mean of L_t over all tokens of the group",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCounts:
    """What is in the loss of one optimizer step, over all its micro-batches and ranks."""

    tokens: int
    """Response tokens."""
    rollouts: int
    groups: int


@checked
def token_shares(
    is_trained: Bool[Tensor, "rollout token"],
    group_tokens: Int[Tensor, " rollout"],
    counts: StepCounts,
    *,
    aggregation: Aggregation,
    constant_tokens: int = 0,
) -> Float[Tensor, "rollout token"]:
    """Each response token's weight in the loss of the step, float64; 0 outside the response.

    `is_trained` marks those that are in the loss, `group_tokens` counts them in each rollout's whole group, and `constant_tokens` is the M
    of `constant`. Raises ValueError for a step without tokens, and for `constant` without M.
    """
    if aggregation == "constant" and constant_tokens < 1:
        raise ValueError(f"constant_tokens ({constant_tokens}) must be at least 1 where the loss is divided by it: pass M")
    if min(counts.tokens, counts.rollouts, counts.groups) < 1:
        raise ValueError(f"an optimizer step with {counts} has no loss: pass the counts of the whole step, not of a micro-batch")
    match aggregation:
        case "tokens":
            divisor = group_tokens.new_full(group_tokens.shape, counts.tokens)
        case "sequences":
            divisor = counts.rollouts * is_trained.sum(dim=1).clamp(min=1)
        case "sequence_sums":
            divisor = group_tokens.new_full(group_tokens.shape, counts.rollouts)
        case "constant":
            divisor = group_tokens.new_full(group_tokens.shape, counts.rollouts * constant_tokens)
        case "groups":
            divisor = counts.groups * group_tokens.clamp(min=1)
    return is_trained.double() / divisor[:, None]
