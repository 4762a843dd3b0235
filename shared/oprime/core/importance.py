"""Weights that correct for rollouts of older weights: proximal / behaviour probability, tamed. They carry no gradient.

How they are tamed is in the files of `oprime.core.corrections`. Loads no torch: settings and command line read these where there is none.
"""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Bool, Float

from oprime.core.checked import checked
from oprime.core.one_file import Choice
from oprime.core.tensors import Tensor

LARGEST_LOG_RATIO = 20.0
"""Nats. Up to here ratios are exp of their logarithm: exp stays finite, and clip and cap act far below."""

Tamed = tuple[Tensor, Tensor]
"""Weights, and where they were cut, [rollout, token] each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction(Choice):
    """A way to tame the weights. Its file's name is its name in `algorithm.correction`."""

    weigh: Callable[..., Tamed]
    """Pure: from log(proximal / behaviour probability), without gradient and 0 outside the response, the tokens that are of the response,
    and own settings by name."""


@checked
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImportanceWeights:
    weights: Float[Tensor, "rollout token"]
    """0 outside the response."""
    capped: Bool[Tensor, "rollout token"]
    """Tokens whose weight was cut at the cap, or masked: for lying outside the band, or with their whole response."""


@checked
def importance_weights(
    proximal_logprobs: Float[Tensor, "rollout token"],
    behaviour_logprobs: Float[Tensor, "rollout token"],
    is_trained: Bool[Tensor, "rollout token"],
    *,
    correction: Correction,
) -> ImportanceWeights:
    """Proximal / behaviour probability of every token, tamed by the correction."""
    log_weights = (proximal_logprobs - behaviour_logprobs).where(is_trained, 0.0).detach()
    tamed, cut = correction.weigh(log_weights, is_trained)
    return ImportanceWeights(weights=tamed.where(is_trained, 0.0), capped=cut & is_trained)


@checked
def capped(weights: Float[Tensor, "rollout token"], cap: float) -> Tamed:
    """Weights of at most `cap`, and where they were above it."""
    return weights.clamp(max=cap), weights > cap


def exp_of_log_ratio(log_ratio: Tensor) -> Tensor:
    """exp, with its argument cut at +- `LARGEST_LOG_RATIO`: for weights, which carry no gradient."""
    return log_ratio.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp()


def exp_along_its_tangent(log_ratio: Tensor) -> Tensor:
    """exp up to `LARGEST_LOG_RATIO`, and its tangent there beyond: for what carries a gradient, which a mere cut would not have, so that
    nothing would bring back what is furthest away."""
    near = log_ratio.clamp(max=LARGEST_LOG_RATIO)
    return near.exp() * (1 + (log_ratio - near))
