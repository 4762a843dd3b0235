"""Implicit process rewards: how much more the PRM likes a token than its reference does (paper, Eq. 3)."""

from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from oprime.core.masked import last_token, masked_sum, returns


def token_process_rewards(
    prm_logprobs: Float[Tensor, "rollout token"],
    reference_logprobs: Float[Tensor, "rollout token"],
    is_response: Bool[Tensor, "rollout token"],
    beta: float,
) -> Float[Tensor, "rollout token"]:
    """Return beta * (log pi_prm - log pi_reference) for every response token, the end token included, and 0 for the rest (Eq. 3).

    Log-probs are in nats at temperature 1.
    """
    return beta * (prm_logprobs - reference_logprobs).where(is_response, 0.0)


def sequence_scores(
    process_rewards: Float[Tensor, "rollout token"], is_response: Bool[Tensor, "rollout token"]
) -> Float[Tensor, " rollout"]:
    """Sum each response's process rewards: the PRM's reward of the whole response (Eq. 3)."""
    return masked_sum(process_rewards, is_response)


def sequence_process_rewards(
    process_rewards: Float[Tensor, "rollout token"], is_response: Bool[Tensor, "rollout token"]
) -> Float[Tensor, "rollout token"]:
    """One process reward per response, the sum of its tokens', on its last token (granularity `sequence`)."""
    return sequence_scores(process_rewards, is_response)[:, None].where(last_token(is_response), 0.0)


def largest_return(rewards: Float[Tensor, "rollout token"], is_response: Bool[Tensor, "rollout token"]) -> Float[Tensor, ""]:
    """Largest absolute undiscounted return of any response token; 0 if there is none."""
    if rewards.numel() == 0:
        return rewards.new_zeros(())
    return returns(rewards, is_response, 1.0).abs().max()


def normalisation_scale(
    rewards: Float[Tensor, "rollout token"], is_response: Bool[Tensor, "rollout token"], *, floor: float, eps: float = 1e-6
) -> Float[Tensor, ""]:
    """What to divide rewards by so that no return exceeds 1: largest return + eps, or 1 while the largest is below `floor`.

    Where PRM and reference still agree, the division would turn rounding noise into rewards of full size.
    """
    largest = largest_return(rewards, is_response)
    return torch.where(largest < floor, torch.ones_like(largest), largest + eps)


def normalise_by_largest_return(
    rewards: Float[Tensor, "rollout token"], is_response: Bool[Tensor, "rollout token"], *, floor: float, eps: float = 1e-6
) -> Float[Tensor, "rollout token"]:
    """Divide rewards by `normalisation_scale` (batch_norm). Give it the whole batch: parts would get different scales."""
    return rewards.where(is_response, 0.0) / normalisation_scale(rewards, is_response, floor=floor, eps=eps)


def normalise_each_chunk(
    rewards: Float[Tensor, "rollout token"],
    is_response: Bool[Tensor, "rollout token"],
    chunk_ids: Int[Tensor, " rollout"],
    *,
    floor: float,
) -> Float[Tensor, "rollout token"]:
    """Divide each chunk of rollouts by its own largest return (per_rank), as the released code does on every rank for itself."""
    return rewards.where(is_response, 0.0) / chunk_scales(rewards, is_response, chunk_ids, floor=floor)[:, None]


def chunk_scales(
    rewards: Float[Tensor, "rollout token"],
    is_response: Bool[Tensor, "rollout token"],
    chunk_ids: Int[Tensor, " rollout"],
    *,
    floor: float,
) -> Float[Tensor, " rollout"]:
    """`normalisation_scale` of each rollout's chunk."""
    scales = rewards.new_ones(len(rewards))
    for chunk in cast("Tensor", torch.unique(chunk_ids)):  # pyright: ignore
        rows = chunk_ids == chunk
        scales[rows] = normalisation_scale(rewards[rows], is_response[rows], floor=floor)
    return scales
