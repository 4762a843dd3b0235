"""CISPO: the clipped ratio is held, so that clipped tokens keep a gradient."""

from oprime.core.one_file import Formula
from oprime.core.policy_loss import PolicyLoss, PolicyTokens, Surrogate
from oprime.core.policy_losses.clip import CLIP_HIGH, CLIP_LOW, SIDES


def cispo(tokens: PolicyTokens, *, clip_low: float, clip_high: float) -> Surrogate:
    held = tokens.ratio.detach()
    bound = held.clamp(1 - clip_low, 1 + clip_high)
    return Surrogate(losses=-tokens.advantages * bound * tokens.logprobs, marked={"clipped": bound != held})


LOSS = PolicyLoss(
    about="the clipped ratio without gradient, so that no token loses its gradient",
    source="CISPO, arXiv 2506.13585",
    formulas=(
        Formula(
            term="token loss", text="L_t = -A clip(rho, 1 - low, 1 + high) log pi_theta, the clipped ratio without gradient", symbols=SIDES
        ),
    ),
    settings=(CLIP_LOW, CLIP_HIGH),
    surrogate=cispo,
)
