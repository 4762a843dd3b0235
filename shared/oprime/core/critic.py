"""A critic's value loss, and how much of the returns its values explain."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from oprime.core.checked import checked


@checked
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ValueLoss:
    """A micro-batch's share of the value loss."""

    loss: Float[Tensor, ""]
    """With gradient."""
    clipped_tokens: int
    """Tokens at which the clip bound the loss."""


@checked
def value_loss(
    values: Float[Tensor, "rollout token"],
    values_before: Float[Tensor, "rollout token"],
    targets: Float[Tensor, "rollout token"],
    is_trained: Bool[Tensor, "rollout token"],
    shares: Float[Tensor, "rollout token"],
    *,
    clip: float | None,
) -> ValueLoss:
    """1/2 max((V - R)^2, (clip(V, V_before - c, V_before + c) - R)^2), weighted by each token's share of the step.

    `values_before` are the critic's as the train step began. Without `clip` it is half the squared error.
    """
    value, before, target = (tensor.where(is_trained, 0.0) for tensor in (values, values_before, targets))
    free = (value - target).square()
    near = value if clip is None else before + (value - before).clamp(-clip, clip)
    bound = (near - target).square()
    loss = 0.5 * (shares.where(is_trained, 0.0) * torch.maximum(free, bound)).sum()
    return ValueLoss(loss=loss, clipped_tokens=int((bound > free).sum()))


@checked
def explained_variance(
    values: Float[Tensor, "rollout token"], targets: Float[Tensor, "rollout token"], is_trained: Bool[Tensor, "rollout token"]
) -> float:
    """1 - variance of (target - value) / variance of the targets: 1 for a perfect critic, 0 for a constant one, nan without variance."""
    value, target = values[is_trained].double(), targets[is_trained].double()
    variance = float(target.var(correction=0)) if len(target) else 0.0
    return 1 - float((target - value).var(correction=0)) / variance if variance > 0 else float("nan")
