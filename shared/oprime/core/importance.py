"""Weights that correct for rollouts of older weights: proximal / behaviour probability, tamed. They carry no gradient."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Correction = Literal["token", "sequence", "band", "none"]

LARGEST_LOG_RATIO = 20.0
"""Log-ratios are cut here, in nats: exp stays finite, and clip and cap act far below."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImportanceWeights:
    weights: Float[Tensor, "rollout token"]
    """0 outside the response."""
    capped: Bool[Tensor, "rollout token"]
    """Tokens whose weight was cut at the cap, or masked for lying outside the band."""


def importance_weights(
    proximal_logprobs: Float[Tensor, "rollout token"],
    behaviour_logprobs: Float[Tensor, "rollout token"],
    is_response: Bool[Tensor, "rollout token"],
    *,
    correction: Correction,
    cap: float,
    band_low: float,
    band_high: float,
) -> ImportanceWeights:
    """With w_t = proximal / behaviour probability of token t:

    `token`: min(w_t, cap), truncated importance sampling per token. `sequence`: min(product of all w_t, cap) on every token of
    the response. `band`: w_t inside [band_low, band_high] and 0 outside. `none`: 1.
    """
    log_weight = (proximal_logprobs - behaviour_logprobs).where(is_response, 0.0).detach()
    if correction == "sequence":
        log_weight = log_weight.sum(dim=1, keepdim=True).expand_as(log_weight)
    weight = exp_of_log_ratio(log_weight)
    if correction == "none":
        tamed, cut = torch.ones_like(weight), torch.zeros_like(is_response)
    elif correction == "band":
        cut = (weight < band_low) | (weight > band_high)
        tamed = weight.where(~cut, 0.0)
    else:
        cut = weight > cap
        tamed = weight.clamp(max=cap)
    return ImportanceWeights(weights=tamed.where(is_response, 0.0), capped=cut & is_response)


def exp_of_log_ratio(log_ratio: Tensor) -> Tensor:
    """exp, with its argument cut at +- `LARGEST_LOG_RATIO`."""
    return log_ratio.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp()
