"""PPO's clip, with two sides of its own and a dual clip."""

from collections.abc import Iterator

from oprime.core.one_file import Formula, OwnSetting
from oprime.core.policy_loss import PolicyLoss, PolicyTokens, Surrogate

CLIP_LOW = OwnSetting(
    name="clip_low",
    default=0.2,
    above=0.0,
    high=1.0,
    meaning="Lower side of the policy clip: ratios below 1 - clip_low are clipped; 1 means no lower side.",
)
CLIP_HIGH = OwnSetting(
    name="clip_high", default=0.2, above=0.0, meaning="Upper side of the policy clip: ratios above 1 + clip_high are clipped."
)
SIDES = {"low": "clip_low", "high": "clip_high"}


def clip(tokens: PolicyTokens, *, clip_low: float, clip_high: float, dual_clip: float) -> Surrogate:
    ratio = tokens.ratio
    free = -tokens.advantages * ratio
    bound = -tokens.advantages * ratio.clamp(1 - clip_low, 1 + clip_high)
    losses, marked = free.maximum(bound), {"clipped": bound > free}
    if dual_clip == 0:
        return Surrogate(losses=losses, marked=marked)
    ceiling = -tokens.advantages * dual_clip
    too_high = (tokens.advantages < 0) & (losses > ceiling)
    return Surrogate(losses=ceiling.where(too_high, losses), marked={**marked, "dual_clipped": too_high})


def contradictions(*, dual_clip: float) -> Iterator[str]:
    if 0 < dual_clip <= 1:
        yield f"algorithm.dual_clip ({dual_clip:g}) must be above 1, or 0 to turn it off: 3 is usual"


LOSS = PolicyLoss(
    about="PPO's clip",
    source="arXiv 1707.06347; dual clip: arXiv 1912.09729",
    formulas=(
        Formula(term="token loss", text="L_t = max(-A rho, -A clip(rho, 1 - low, 1 + high))", symbols=SIDES),
        Formula(term="dual clip", text="where A < 0, L_t is at most -c A", symbols={"c": "dual_clip"}, unless={"dual_clip": 0}),
    ),
    settings=(
        CLIP_LOW,
        CLIP_HIGH,
        OwnSetting(
            name="dual_clip",
            default=0.0,
            low=0.0,
            meaning="Dual clip c > 1: where the advantage A is negative, a token's loss is at most -c A. 0 means off.",
        ),
    ),
    contradictions=contradictions,
    surrogate=clip,
)
