"""Implicit process rewards: how much more the PRM likes a token than its reference does (paper, Eq. 3)."""

from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from oprime.core.checked import checked
from oprime.core.masked import last_token, masked_sum, returns


@checked
def token_process_rewards(
    prm_logprobs: Float[Tensor, "rollout token"],
    reference_logprobs: Float[Tensor, "rollout token"],
    is_trained: Bool[Tensor, "rollout token"],
    beta: float,
) -> Float[Tensor, "rollout token"]:
    """Return beta * (log pi_prm - log pi_reference) for every response token, the end token included, and 0 for the rest (Eq. 3).

    Log-probs are in nats at temperature 1.
    """
    return beta * (prm_logprobs - reference_logprobs).where(is_trained, 0.0)


GRID = 2.0**-30
"""Printed rewards are whole multiples of this."""


@checked
def printed_rewards(
    prm_logprobs: Float[Tensor, " token"], reference_logprobs: Float[Tensor, " token"], beta: float
) -> Float[Tensor, " token"]:
    """The rewards of Eq. 3 as float32, rounded to multiples of 2^-30, so that any sum of them in float64 is exact in any order.

    A multiple below 2^-6 has at most 24 bits, and above that float32 itself is coarser, so the rounding holds in float32. Sums stay
    exact below 2^23.
    """
    rewards = beta * (prm_logprobs.double() - reference_logprobs.double())
    return ((rewards / GRID).round() * GRID).float()


@checked
def sequence_scores(
    process_rewards: Float[Tensor, "rollout token"], is_trained: Bool[Tensor, "rollout token"]
) -> Float[Tensor, " rollout"]:
    """Sum each response's process rewards: the PRM's reward of the whole response (Eq. 3)."""
    return masked_sum(process_rewards, is_trained)


@checked
def sequence_process_rewards(
    process_rewards: Float[Tensor, "rollout token"], is_trained: Bool[Tensor, "rollout token"]
) -> Float[Tensor, "rollout token"]:
    """One process reward per response, the sum of its tokens', on its last token (granularity `sequence`)."""
    return sequence_scores(process_rewards, is_trained)[:, None].where(last_token(is_trained), 0.0)


@checked
def largest_returns(rewards: Float[Tensor, "rollout token"], is_trained: Bool[Tensor, "rollout token"]) -> Float[Tensor, " rollout"]:
    """Largest absolute undiscounted return of any token of each rollout; 0 where there is none."""
    if rewards.numel() == 0:
        return rewards.new_zeros(len(rewards))
    return returns(rewards, is_trained, 1.0).abs().amax(dim=1)


@checked
def normalisation_scale(largest: Float[Tensor, " rollout"], *, floor: float, eps: float = 1e-6) -> Float[Tensor, ""]:
    """What to divide rewards by so that no return exceeds 1: the largest return of all + eps, or 1 while that is below `floor`.

    Give it the `largest_returns` of the whole batch (batch_norm): parts would get different scales. Where PRM and reference still
    agree, the division would turn rounding noise into rewards of full size.
    """
    most = largest.max() if len(largest) else largest.new_zeros(())
    return torch.where(most < floor, torch.ones_like(most), most + eps)


@checked
def chunk_scales(largest: Float[Tensor, " rollout"], chunk_ids: Int[Tensor, " rollout"], *, floor: float) -> Float[Tensor, " rollout"]:
    """`normalisation_scale` of each rollout's chunk (per_rank), as the released code has it on every rank for itself."""
    scales = torch.ones_like(largest)
    for chunk in cast("Tensor", torch.unique(chunk_ids)):  # pyright: ignore
        rows = chunk_ids == chunk
        scales[rows] = normalisation_scale(largest[rows], floor=floor)
    return scales
