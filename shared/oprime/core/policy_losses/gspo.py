"""GSPO: one ratio per response, the geometric mean of its tokens' ratios, clipped as a whole."""

from oprime.core.importance import exp_along_its_tangent
from oprime.core.masked import masked_mean
from oprime.core.one_file import Formula, OwnSetting
from oprime.core.policy_loss import PolicyLoss, PolicyTokens, Surrogate
from oprime.core.tensors import Tensor


def gspo(tokens: PolicyTokens, *, gspo_clip_low: float, gspo_clip_high: float, gspo_gradient: str) -> Surrogate:
    ratio = exp_along_its_tangent(_by_token(tokens) if gspo_gradient == "token" else _of_the_response(tokens))
    free = -tokens.advantages * ratio
    bound = -tokens.advantages * ratio.clamp(1 - gspo_clip_low, 1 + gspo_clip_high)
    return Surrogate(losses=free.maximum(bound), marked={"clipped": bound > free})


def _of_the_response(tokens: PolicyTokens) -> Tensor:
    """log s on every token, with the gradient of all tokens of the response."""
    return masked_mean(tokens.log_ratio, tokens.is_trained)[:, None].expand_as(tokens.log_ratio)


def _by_token(tokens: PolicyTokens) -> Tensor:
    """log s on every token, with the gradient of that token's own log-prob alone."""
    return _of_the_response(tokens).detach() + (tokens.log_ratio - tokens.log_ratio.detach())


LOSS = PolicyLoss(
    about="one clipped ratio per response, the geometric mean of its tokens'",
    source="GSPO and GSPO-token, arXiv 2507.18071",
    formulas=(
        Formula(
            term="token loss",
            text="L_t = max(-A s, -A clip(s, 1 - low, 1 + high)), s = exp(mean over the response of log rho)",
            symbols={"low": "gspo_clip_low", "high": "gspo_clip_high"},
        ),
        Formula(
            term="gradient",
            text="through every log rho of s, so that a response's tokens share its mean advantage",
            when={"gspo_gradient": "sequence"},
        ),
        Formula(
            term="gradient",
            text="of L_t through log rho of token t alone, with weight s, so that every token keeps its own advantage",
            when={"gspo_gradient": "token"},
        ),
    ),
    settings=(
        OwnSetting(name="gspo_clip_low", default=3e-4, above=0.0, high=1.0, meaning="Lower side of GSPO's clip of a response's ratio."),
        OwnSetting(name="gspo_clip_high", default=4e-4, above=0.0, meaning="Upper side of GSPO's clip of a response's ratio."),
        OwnSetting(
            name="gspo_gradient",
            default="sequence",
            choices=("sequence", "token"),
            meaning="`sequence` is GSPO: all tokens of a response get its mean advantage, whatever process rewards say of each. `token` is "
            "GSPO-token, which keeps each token's own; where a response's advantages are equal both are the same.",
        ),
    ),
    surrogate=gspo,
)
