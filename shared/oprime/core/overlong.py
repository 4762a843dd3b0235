"""The soft over-long penalty of DAPO (arXiv 2503.14476, Eq. 13): long responses earn less well before they are cut.

Loads no torch.
"""

from jaxtyping import Float, Int

from oprime.core.checked import checked
from oprime.core.tensors import Tensor


@checked
def overlong_penalties(response_tokens: Int[Tensor, " rollout"], *, limit: int, buffer: int, penalty: float) -> Float[Tensor, " rollout"]:
    """What comes off each outcome reward, float64: 0 up to `limit - buffer` tokens, then evenly up to `penalty` at `limit`."""
    over = (response_tokens - (limit - buffer)).clamp(0, buffer).double()
    return penalty * over / buffer
