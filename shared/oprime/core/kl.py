"""Estimates of KL(policy, reference) from the tokens that were sampled."""

from typing import Literal

from jaxtyping import Bool, Float

from oprime.core.checked import checked
from oprime.core.importance import exp_along_its_tangent
from oprime.core.masked import masked_sum
from oprime.core.tensors import Tensor

KlEstimator = Literal["k1", "k2", "k3"]
KL_FORMULAS: dict[KlEstimator, str] = {"k1": "d", "k2": "d^2 / 2", "k3": "exp(-d) - 1 + d"}
"""With d = log pi - log pi_ref."""


@checked
def token_kl(
    policy_logprobs: Float[Tensor, "rollout token"],
    reference_logprobs: Float[Tensor, "rollout token"],
    is_trained: Bool[Tensor, "rollout token"],
    *,
    estimator: KlEstimator,
) -> Float[Tensor, "rollout token"]:
    """Nats per response token by `KL_FORMULAS`; 0 outside.

    All three estimate the same KL. As a loss their gradients differ: k1's is 0 on average, k2's is that of the KL. k3 goes on along its
    tangent beyond `LARGEST_LOG_RATIO`, so that it stays finite and still pulls a token back that the policy has all but given up.
    """
    difference = (policy_logprobs - reference_logprobs).where(is_trained, 0.0)
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return 0.5 * difference.square()
    return exp_along_its_tangent(-difference) - 1 + difference


@checked
def outcome_rewards_less_kl(
    outcome_rewards: Float[Tensor, " rollout"],
    kl: Float[Tensor, "rollout token"],
    is_trained: Bool[Tensor, "rollout token"],
    *,
    coefficient: float,
) -> Float[Tensor, " rollout"]:
    """KL in the reward: r_o - coefficient * sum_t KL_t, which every estimator then treats as the outcome reward."""
    return outcome_rewards - coefficient * masked_sum(kl, is_trained)
