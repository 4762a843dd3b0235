"""The clipped policy loss with a correction for stale weights, and how far sampler and learner disagree."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_LARGEST_LOG_RATIO = 20.0
"""Log-ratios are cut here, in nats: exp stays finite, and clip and cap act far below."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PolicyLoss:
    """A micro-batch's share of the loss. All metrics are sums over response tokens: add them up, then divide by `tokens`."""

    loss: Float[Tensor, ""]
    """With gradient."""
    tokens: int
    clipped_tokens: int
    """Tokens at which the clip bound the loss."""
    capped_tokens: int
    """Tokens whose importance weight was cut at the cap."""
    kl_sum: float
    """Nats; sum of proximal - policy log-probs (k1 estimate of KL(proximal, policy))."""
    importance_weight_sum: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """How the log-probs of sampler and learner differ on the same tokens; ratio = learner / sampler probability."""

    tokens: int
    kl_k1: float
    """Nats per token: mean of -log ratio."""
    kl_k3: float
    """Nats per token: mean of ratio - 1 - log ratio; never negative."""
    ratio_p99: float
    """99th percentile of the ratio, by nearest rank."""
    outside_ratio: float
    """Share of tokens with a ratio outside [0.9, 1.1]."""


def policy_loss(
    policy_logprobs: Float[Tensor, "rollout token"],
    proximal_logprobs: Float[Tensor, "rollout token"],
    behaviour_logprobs: Float[Tensor, "rollout token"],
    advantages: Float[Tensor, "rollout token"],
    is_response: Bool[Tensor, "rollout token"],
    *,
    clip_low: float,
    clip_high: float,
    importance_cap: float,
    token_count: int,
) -> PolicyLoss:
    """Decoupled PPO: w * max(-A * r, -A * clip(r, 1 - clip_low, 1 + clip_high)), summed over response tokens, over `token_count`.

    r = policy / proximal probability carries the gradient; w = min(proximal / behaviour probability, importance_cap) does
    not. `token_count` is the number of response tokens of the whole optimizer step, over all ranks, so that splitting
    the step into micro-batches changes nothing. Raises ValueError if `token_count` is not positive.
    """
    if token_count < 1:
        raise ValueError(f"token_count ({token_count}) must be positive: pass the response tokens of the whole optimizer step")
    log_ratio = (policy_logprobs - proximal_logprobs).where(is_response, 0.0)
    ratio = _exp(log_ratio)
    uncapped = _exp((proximal_logprobs - behaviour_logprobs).where(is_response, 0.0).detach())
    weight = uncapped.clamp(max=importance_cap).where(is_response, 0.0)
    advantage = advantages.where(is_response, 0.0)
    free = -advantage * ratio
    clipped = -advantage * ratio.clamp(1 - clip_low, 1 + clip_high)
    loss = (weight * torch.maximum(free, clipped)).sum() / token_count
    return PolicyLoss(
        loss=loss,
        tokens=int(is_response.sum()),
        clipped_tokens=int((clipped > free).sum()),
        capped_tokens=int((uncapped > importance_cap).sum()),
        kl_sum=-float(log_ratio.detach().double().sum()),
        importance_weight_sum=float(weight.double().sum()),
    )


def mismatch(
    sampler_logprobs: Float[Tensor, "rollout token"],
    learner_logprobs: Float[Tensor, "rollout token"],
    is_response: Bool[Tensor, "rollout token"],
) -> Mismatch:
    """Compare the sampler's log-probs with the learner's, over all response tokens of a batch.

    An empty batch gives a ratio of 1 and no difference.
    """
    log_ratio = (learner_logprobs - sampler_logprobs)[is_response].double()
    tokens = len(log_ratio)
    if tokens == 0:
        return Mismatch(tokens=0, kl_k1=0.0, kl_k3=0.0, ratio_p99=1.0, outside_ratio=0.0)
    ratio = _exp(log_ratio)
    outside = (ratio < 0.9) | (ratio > 1.1)
    return Mismatch(
        tokens=tokens,
        kl_k1=-float(log_ratio.mean()),
        kl_k3=float((ratio - 1 - log_ratio).mean()),
        ratio_p99=float(ratio.kthvalue(math.ceil(0.99 * tokens)).values),
        outside_ratio=float(outside.double().mean()),
    )


def _exp(log_ratio: Tensor) -> Tensor:
    return log_ratio.clamp(-_LARGEST_LOG_RATIO, _LARGEST_LOG_RATIO).exp()
