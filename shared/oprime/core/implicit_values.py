"""Values of prefixes: what the implicit PRM expects of a response after each of its tokens.

Loads no torch, as `prm_losses` does not.
"""

from jaxtyping import Bool, Float

from oprime.core.checked import checked
from oprime.core.tensors import Tensor


@checked
def prefix_values(
    process_rewards: Float[Tensor, "rollout token"], is_trained: Bool[Tensor, "rollout token"]
) -> Float[Tensor, "rollout token"]:
    """v_t = 1/t sum_{s<=t} r_s, t counting response tokens from 1; 0 outside the response. sigmoid(v_t) reads as the probability that
    this prefix ends right, for a PRM that `prefix_value` trained."""
    sums = process_rewards.where(is_trained, 0.0).cumsum(dim=1)
    return (sums / is_trained.cumsum(dim=1).clamp(min=1)).where(is_trained, 0.0)
