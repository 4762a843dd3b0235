"""Sums, means and returns over response tokens. Whatever stands outside the mask, NaN included, has no effect."""

from jaxtyping import Bool, Float

from oprime.core.checked import checked
from oprime.core.moments import Moments
from oprime.core.tensors import Tensor


@checked
def masked_sum(values: Float[Tensor, "rollout token"], mask: Bool[Tensor, "rollout token"]) -> Float[Tensor, " rollout"]:
    """Sum each rollout's values inside the mask."""
    return values.where(mask, 0.0).sum(dim=1)


@checked
def masked_mean(values: Float[Tensor, "rollout token"], mask: Bool[Tensor, "rollout token"]) -> Float[Tensor, " rollout"]:
    """Average each rollout's values inside the mask; 0 for a rollout with nothing inside."""
    return masked_sum(values, mask) / mask.sum(dim=1).clamp(min=1)


@checked
def masked_whiten(
    values: Float[Tensor, "rollout token"], mask: Bool[Tensor, "rollout token"], moments: Moments, *, eps: float = 1e-8
) -> Float[Tensor, "rollout token"]:
    """Return (value - mean) / sqrt(variance + eps) inside the mask and 0 outside, with the mean and variance of the whole batch.

    A single value, or equal values, give 0. Computed in float64: the rounding error of a float32 mean would be blown up where the
    variance is 0.
    """
    variance = moments.variance if moments.count > 1 else 0.0
    return ((values.double() - moments.mean) / (variance + eps) ** 0.5).where(mask, 0.0).to(values.dtype)


@checked
def returns(
    rewards: Float[Tensor, "rollout token"], is_trained: Bool[Tensor, "rollout token"], discount: float
) -> Float[Tensor, "rollout token"]:
    """Sum rewards from each response token to the end: G_t = sum over s >= t of discount^(s - t) * r_s.

    Rewards outside the response count as 0, and so do the returns there. A response is one contiguous run of tokens.
    """
    inside = rewards.where(is_trained, 0.0)
    if discount == 1.0:
        return inside.flip(1).cumsum(dim=1).flip(1).where(is_trained, 0.0)
    result = inside.new_zeros(inside.shape)
    ahead = inside.new_zeros(len(inside), 1)
    for token in range(inside.shape[1] - 1, -1, -1):
        ahead = inside[:, token : token + 1] + discount * ahead
        result[:, token : token + 1] = ahead
    return result.where(is_trained, 0.0)


@checked
def at_last_token(values: Float[Tensor, " rollout"], is_trained: Bool[Tensor, "rollout token"]) -> Float[Tensor, "rollout token"]:
    """Put each rollout's value on its last response token and 0 elsewhere."""
    return values[:, None].where(last_token(is_trained), 0.0)


@checked
def last_token(is_trained: Bool[Tensor, "rollout token"]) -> Bool[Tensor, "rollout token"]:
    """True at the last token of each response."""
    tokens_ahead = is_trained.flip(1).cumsum(dim=1).flip(1)
    return is_trained & (tokens_ahead == 1)
