"""How far sampler and learner disagree on the same tokens."""

import math
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from oprime.core.checked import checked
from oprime.core.importance import exp_of_log_ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """How the log-probs of sampler and learner differ on the same tokens; ratio = learner / sampler probability."""

    tokens: int
    kl_k1: float
    """Nats per token: mean of -log ratio."""
    kl_k3: float
    """Nats per token: mean of ratio - 1 - log ratio; never negative."""
    ratio_p01: float
    """1st percentile of the ratio, by nearest rank."""
    ratio_p99: float
    """99th percentile of the ratio, by nearest rank."""
    ratio_max: float
    outside_ratio: float
    """Share of tokens with a ratio outside [0.9, 1.1]."""


@checked
def mismatch(
    sampler_logprobs: Float[Tensor, "rollout token"],
    learner_logprobs: Float[Tensor, "rollout token"],
    is_trained: Bool[Tensor, "rollout token"],
) -> Mismatch:
    """Compare the sampler's log-probs with the learner's, over all response tokens of a batch.

    An empty batch gives a ratio of 1 and no difference.
    """
    log_ratio = (learner_logprobs - sampler_logprobs)[is_trained].double()
    tokens = len(log_ratio)
    if tokens == 0:
        return Mismatch(tokens=0, kl_k1=0.0, kl_k3=0.0, ratio_p01=1.0, ratio_p99=1.0, ratio_max=1.0, outside_ratio=0.0)
    ratio = exp_of_log_ratio(log_ratio)
    outside = (ratio < 0.9) | (ratio > 1.1)
    return Mismatch(
        tokens=tokens,
        kl_k1=-float(log_ratio.mean()),
        kl_k3=float((ratio - 1 - log_ratio).mean()),
        ratio_p01=float(ratio.kthvalue(math.ceil(0.01 * tokens)).values),
        ratio_p99=float(ratio.kthvalue(math.ceil(0.99 * tokens)).values),
        ratio_max=float(ratio.max()),
        outside_ratio=float(outside.double().mean()),
    )
