"""Sums, means and returns over response tokens. Whatever stands outside the mask, NaN included, has no effect."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def masked_sum(values: Float[Tensor, "rollout token"], mask: Bool[Tensor, "rollout token"]) -> Float[Tensor, " rollout"]:
    """Sum each rollout's values inside the mask."""
    return values.where(mask, 0.0).sum(dim=1)


def masked_mean(values: Float[Tensor, "rollout token"], mask: Bool[Tensor, "rollout token"]) -> Float[Tensor, " rollout"]:
    """Average each rollout's values inside the mask; 0 for a rollout with nothing inside."""
    return masked_sum(values, mask) / mask.sum(dim=1).clamp(min=1)


def masked_whiten(
    values: Float[Tensor, "rollout token"], mask: Bool[Tensor, "rollout token"], *, eps: float = 1e-8
) -> Float[Tensor, "rollout token"]:
    """Return (value - mean) / sqrt(variance + eps) inside the mask and 0 outside, over all rollouts at once.

    The variance is unbiased. A single value, or equal values, give 0. Computed in float64: the rounding error of a
    float32 mean would be blown up where the variance is 0.
    """
    inside = values.double().where(mask, 0.0)
    count = mask.sum()
    mean = inside.sum() / count.clamp(min=1)
    centred = (inside - mean).where(mask, 0.0)
    variance = centred.square().sum() / (count - 1).clamp(min=1)
    return (centred / torch.sqrt(variance + eps)).to(values.dtype)


def returns(
    rewards: Float[Tensor, "rollout token"], is_response: Bool[Tensor, "rollout token"], discount: float
) -> Float[Tensor, "rollout token"]:
    """Sum rewards from each response token to the end: G_t = sum over s >= t of discount^(s - t) * r_s.

    Rewards outside the response count as 0, and so do the returns there. A response is one contiguous run of tokens.
    """
    inside = rewards.where(is_response, 0.0)
    if discount == 1.0:
        return inside.flip(1).cumsum(dim=1).flip(1).where(is_response, 0.0)
    result = torch.zeros_like(inside)
    ahead = torch.zeros_like(inside[:, :1])
    for token in range(inside.shape[1] - 1, -1, -1):
        ahead = inside[:, token : token + 1] + discount * ahead
        result[:, token : token + 1] = ahead
    return result.where(is_response, 0.0)


def at_last_token(values: Float[Tensor, " rollout"], is_response: Bool[Tensor, "rollout token"]) -> Float[Tensor, "rollout token"]:
    """Put each rollout's value on its last response token and 0 elsewhere."""
    return values[:, None].where(last_token(is_response), 0.0)


def last_token(is_response: Bool[Tensor, "rollout token"]) -> Bool[Tensor, "rollout token"]:
    """True at the last token of each response."""
    tokens_ahead = is_response.flip(1).cumsum(dim=1).flip(1)
    return is_response & (tokens_ahead == 1)
