"""How the process rewards of a response become credit for its tokens: their sum, or their minimum (PURE, arXiv 2504.15275).

Loads no torch.
"""

from jaxtyping import Bool, Float

from oprime.core.checked import checked
from oprime.core.tensors import Tensor


@checked
def minimum_form(
    process_rewards: Float[Tensor, "rollout token"], is_trained: Bool[Tensor, "rollout token"], *, temperature: float
) -> Float[Tensor, "rollout token"]:
    """r_t exp(-r_t / tau) / sum_s exp(-r_s / tau), over the response's tokens; 0 outside.

    Its sum over the response tends to the smallest reward as the temperature tau does to 0, so no token pays for all before it.
    """
    shares = (-process_rewards / temperature).masked_fill(~is_trained, float("-inf")).softmax(dim=1)
    return (process_rewards * shares).where(is_trained, 0.0)
