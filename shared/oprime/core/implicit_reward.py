"""Implicit process rewards: how much more the PRM likes a token than its reference does (paper, Eq. 3)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from oprime.core.masked import masked_sum, returns


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


def largest_return(rewards: Float[Tensor, "rollout token"], is_response: Bool[Tensor, "rollout token"]) -> Float[Tensor, ""]:
    """Largest absolute undiscounted return of any response token; 0 if there is none."""
    if rewards.numel() == 0:
        return rewards.new_zeros(())
    return returns(rewards, is_response, 1.0).abs().max()


def normalise_by_largest_return(
    rewards: Float[Tensor, "rollout token"], is_response: Bool[Tensor, "rollout token"], *, floor: float, eps: float = 1e-6
) -> Float[Tensor, "rollout token"]:
    """Divide rewards by (largest return + eps), so that no return exceeds 1. Give it the whole batch: parts would get different scales.

    Rewards stay as they are while the largest return is below `floor`: where PRM and reference still agree, the
    division would turn rounding noise into rewards of full size.
    """
    largest = largest_return(rewards, is_response)
    scale = torch.where(largest < floor, torch.ones_like(largest), largest + eps)
    return rewards.where(is_response, 0.0) / scale
