"""The policy loss of a micro-batch: clipped or CISPO surrogate, corrected for stale weights, with KL and entropy terms."""

from dataclasses import dataclass, fields
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from oprime.core.importance import Correction, exp_of_log_ratio, importance_weights
from oprime.core.kl import KlEstimator, token_kl

Surrogate = Literal["clip", "cispo"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyLossOptions:
    surrogate: Surrogate = "clip"
    clip_low: float = 0.2
    """Ratios below 1 - clip_low are clipped."""
    clip_high: float = 0.2
    """Ratios above 1 + clip_high are clipped."""
    dual_clip: float | None = None
    """c > 1: with a negative advantage A a token's loss is at most -c * A."""
    correction: Correction = "token"
    importance_cap: float = 2.0
    band_low: float = 0.5
    band_high: float = 2.0
    kl_estimator: KlEstimator = "k3"
    kl_coefficient: float = 0.0
    """Weight of the KL to the reference in the loss."""
    entropy_coefficient: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyLossSums:
    """Sums over the response tokens of a micro-batch: add them up over the step, then divide by `tokens`."""

    tokens: float = 0.0
    loss: float = 0.0
    """Already a share of the step's loss."""
    clipped: float = 0.0
    """Tokens at which the clip bound the loss (for CISPO: whose ratio was clipped)."""
    dual_clipped: float = 0.0
    """Tokens at which the dual clip bound the loss."""
    capped: float = 0.0
    """Tokens whose importance weight was cut at the cap, or masked for lying outside the band."""
    proximal_kl: float = 0.0
    """Nats; proximal - policy log-probs (k1 estimate of KL(proximal, policy))."""
    importance_weight: float = 0.0
    reference_kl: float = 0.0
    """Nats; KL(policy, reference) by the chosen estimator, 0 without a reference."""
    surprisal: float = 0.0
    """Nats; -log pi of the sampled tokens. Beside the entropy it tells how far the rollouts are from what the policy would sample."""
    entropy: float = 0.0
    """Nats; 0 without entropies."""

    def values(self) -> list[float]:
        return [float(getattr(self, field.name)) for field in fields(self)]


def loss_sums(values: list[float]) -> PolicyLossSums:
    """The inverse of `PolicyLossSums.values`."""
    return PolicyLossSums(**dict(zip((field.name for field in fields(PolicyLossSums)), values, strict=True)))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PolicyLoss:
    """A micro-batch's share of the step's loss."""

    loss: Float[Tensor, ""]
    """With gradient."""
    sums: PolicyLossSums


def policy_loss(
    policy_logprobs: Float[Tensor, "rollout token"],
    proximal_logprobs: Float[Tensor, "rollout token"],
    behaviour_logprobs: Float[Tensor, "rollout token"],
    advantages: Float[Tensor, "rollout token"],
    is_response: Bool[Tensor, "rollout token"],
    shares: Float[Tensor, "rollout token"],
    options: PolicyLossOptions,
    *,
    reference_logprobs: Float[Tensor, "rollout token"] | None = None,
    entropies: Float[Tensor, "rollout token"] | None = None,
) -> PolicyLoss:
    """Sum over response tokens of share * (w * surrogate(r, A) + kl_coefficient * KL - entropy_coefficient * H).

    r = policy / proximal probability carries the gradient; w corrects proximal / behaviour probability and does not
    (decoupled PPO; with one optimizer step per batch proximal = policy, and w alone acts). `shares` are those of
    `aggregation.token_shares`. Raises ValueError for a coefficient whose input is missing.
    """
    _require_inputs(options, reference_logprobs, entropies)
    policy = policy_logprobs.where(is_response, 0.0)
    log_ratio = policy - proximal_logprobs.where(is_response, 0.0)
    advantage, share = advantages.where(is_response, 0.0), shares.where(is_response, 0.0)
    correction = importance_weights(
        proximal_logprobs,
        behaviour_logprobs,
        is_response,
        correction=options.correction,
        cap=options.importance_cap,
        band_low=options.band_low,
        band_high=options.band_high,
    )
    surrogate = cispo_surrogate if options.surrogate == "cispo" else clipped_surrogate
    terms = surrogate(policy, exp_of_log_ratio(log_ratio), advantage, options)
    kl = _zeros(policy) if reference_logprobs is None else token_kl(policy, reference_logprobs, is_response, estimator=options.kl_estimator)
    entropy = _zeros(policy) if entropies is None else entropies.where(is_response, 0.0)
    per_token = correction.weights * terms.loss + options.kl_coefficient * kl - options.entropy_coefficient * entropy
    loss = (share * per_token).sum().to(policy_logprobs.dtype)
    return PolicyLoss(
        loss=loss,
        sums=PolicyLossSums(
            tokens=float(is_response.sum()),
            loss=float(loss.detach()),
            clipped=float(terms.clipped.sum()),
            dual_clipped=float(terms.dual_clipped.sum()),
            capped=float(correction.capped.sum()),
            proximal_kl=-_sum(log_ratio),
            importance_weight=_sum(correction.weights),
            reference_kl=_sum(kl),
            surprisal=-_sum(policy),
            entropy=_sum(entropy),
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SurrogateTerms:
    loss: Float[Tensor, "rollout token"]
    clipped: Bool[Tensor, "rollout token"]
    dual_clipped: Bool[Tensor, "rollout token"]


def clipped_surrogate(
    policy_logprobs: Float[Tensor, "rollout token"],
    ratio: Float[Tensor, "rollout token"],
    advantages: Float[Tensor, "rollout token"],
    options: PolicyLossOptions,
) -> SurrogateTerms:
    """PPO: max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high)); with dual clip, at most -c A where A is negative."""
    free = -advantages * ratio
    bound = -advantages * ratio.clamp(1 - options.clip_low, 1 + options.clip_high)
    loss = torch.maximum(free, bound)
    if options.dual_clip is None:
        return SurrogateTerms(loss=loss, clipped=bound > free, dual_clipped=torch.zeros_like(bound > free))
    ceiling = -advantages * options.dual_clip
    too_high = (advantages < 0) & (loss > ceiling)
    return SurrogateTerms(loss=torch.where(too_high, ceiling, loss), clipped=bound > free, dual_clipped=too_high)


def cispo_surrogate(
    policy_logprobs: Float[Tensor, "rollout token"],
    ratio: Float[Tensor, "rollout token"],
    advantages: Float[Tensor, "rollout token"],
    options: PolicyLossOptions,
) -> SurrogateTerms:
    """CISPO: -A clip(r, 1 - clip_low, 1 + clip_high) log pi, the clipped ratio without gradient: no token loses its gradient."""
    held = ratio.detach()
    bound = held.clamp(1 - options.clip_low, 1 + options.clip_high)
    return SurrogateTerms(loss=-advantages * bound * policy_logprobs, clipped=bound != held, dual_clipped=torch.zeros_like(bound != held))


def _require_inputs(options: PolicyLossOptions, reference_logprobs: Tensor | None, entropies: Tensor | None) -> None:
    if options.kl_coefficient != 0 and reference_logprobs is None:
        raise ValueError(f"kl_coefficient ({options.kl_coefficient}) needs reference_logprobs: pass them, or set the coefficient to 0")
    if options.entropy_coefficient != 0 and entropies is None:
        raise ValueError(f"entropy_coefficient ({options.entropy_coefficient}) needs entropies: pass them, or set the coefficient to 0")


def _zeros(like: Tensor) -> Tensor:
    return torch.zeros_like(like.detach())


def _sum(values: Tensor) -> float:
    return float(values.detach().double().sum())
