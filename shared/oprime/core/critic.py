"""PPO's critic: generalised advantage estimation, the value loss, and how much of the returns the values explain."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from oprime.core.masked import at_last_token


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GeneralisedAdvantages:
    advantages: Float[Tensor, "rollout token"]
    """Not whitened; 0 outside the response."""
    value_targets: Float[Tensor, "rollout token"]
    """What the critic shall learn: advantage + value; 0 outside the response."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ValueLoss:
    """A micro-batch's share of the value loss."""

    loss: Float[Tensor, ""]
    """With gradient."""
    clipped_tokens: int
    """Tokens at which the clip bound the loss."""


def ppo_token_rewards(
    process_rewards: Float[Tensor, "rollout token"],
    outcome_rewards: Float[Tensor, " rollout"],
    is_response: Bool[Tensor, "rollout token"],
    *,
    process_weight: float,
    outcome_weight: float,
) -> Float[Tensor, "rollout token"]:
    """One reward per token: r_t = process_weight * r_phi(y_t), and outcome_weight * r_o besides at the last token."""
    outcome = at_last_token(outcome_rewards, is_response)
    return process_weight * process_rewards.where(is_response, 0.0) + outcome_weight * outcome


def generalised_advantages(
    rewards: Float[Tensor, "rollout token"],
    values: Float[Tensor, "rollout token"],
    is_response: Bool[Tensor, "rollout token"],
    *,
    discount: float,
    trace_decay: float,
) -> GeneralisedAdvantages:
    """GAE: A_t = sum_{s>=t} (gamma lambda)^(s-t) delta_s, with delta_t = r_t + gamma V_{t+1} - V_t and V = 0 after the last token.

    `values[t]` is V of what precedes token t. A response is one contiguous run of tokens; whatever stands outside it counts as 0.
    """
    reward, value = rewards.where(is_response, 0.0), values.where(is_response, 0.0)
    result = torch.zeros_like(value)
    next_value, ahead = torch.zeros_like(value[:, :1]), torch.zeros_like(value[:, :1])
    for token in range(value.shape[1] - 1, -1, -1):
        here = slice(token, token + 1)
        delta = reward[:, here] + discount * next_value - value[:, here]
        ahead = (delta + discount * trace_decay * ahead).where(is_response[:, here], 0.0)
        next_value = value[:, here]
        result[:, here] = ahead
    return GeneralisedAdvantages(advantages=result, value_targets=(result + value).where(is_response, 0.0))


def value_loss(
    values: Float[Tensor, "rollout token"],
    values_before: Float[Tensor, "rollout token"],
    targets: Float[Tensor, "rollout token"],
    is_response: Bool[Tensor, "rollout token"],
    shares: Float[Tensor, "rollout token"],
    *,
    clip: float | None,
) -> ValueLoss:
    """1/2 max((V - R)^2, (clip(V, V_before - c, V_before + c) - R)^2), weighted by each token's share of the step.

    `values_before` are the critic's as the train step began. Without `clip` it is half the squared error.
    """
    value, before, target = (tensor.where(is_response, 0.0) for tensor in (values, values_before, targets))
    free = (value - target).square()
    near = value if clip is None else before + (value - before).clamp(-clip, clip)
    bound = (near - target).square()
    loss = 0.5 * (shares.where(is_response, 0.0) * torch.maximum(free, bound)).sum()
    return ValueLoss(loss=loss, clipped_tokens=int((bound > free).sum()))


def explained_variance(
    values: Float[Tensor, "rollout token"], targets: Float[Tensor, "rollout token"], is_response: Bool[Tensor, "rollout token"]
) -> float:
    """1 - variance of (target - value) / variance of the targets: 1 for a perfect critic, 0 for a constant one, nan without variance."""
    value, target = values[is_response].double(), targets[is_response].double()
    variance = float(target.var(correction=0)) if len(target) else 0.0
    return 1 - float((target - value).var(correction=0)) / variance if variance > 0 else float("nan")
