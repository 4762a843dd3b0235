"""Prefix values: the mean reward of every prefix, not the sum of the whole response, says how it will end."""

from collections.abc import Iterator

from jaxtyping import Float

from oprime.core.checked import checked
from oprime.core.implicit_values import prefix_values
from oprime.core.masked import masked_mean
from oprime.core.one_file import Formula, OwnSetting
from oprime.core.outcome_balance import BALANCING, OFFSET_FORMULA, WEIGHT_FORMULA, balance, offsets, weighted
from oprime.core.prm_loss import PrmLoss, PrmTokens, require_outcomes
from oprime.core.tensors import Tensor

FARTHEST = 2.0
"""Nats of mean log-ratio beyond which no margin may ask a prefix to be."""


@checked
def prefix_value(tokens: PrmTokens, *, margin: float) -> Float[Tensor, " rollout"]:
    """The mean over a response's tokens of what their prefix value costs. Raises ValueError for outcome rewards outside [0, 1]."""
    from torch.nn.functional import softplus

    require_outcomes(tokens.outcome_rewards)
    values = prefix_values(tokens.process_rewards, tokens.is_trained)
    offset, outcome = offsets(tokens.group, tokens.outcome_rewards)[:, None], tokens.outcome_rewards[:, None]
    costs = outcome * softplus(margin - offset - values) + (1 - outcome) * softplus(margin + offset + values)
    return weighted(masked_mean(costs, tokens.is_trained), tokens.group)


def contradictions(*, margin: float, beta: float) -> Iterator[str]:
    if margin > FARTHEST * beta:
        yield (
            f"prm.margin = {margin:g} with prm.beta = {beta:g}: a prefix value is beta times a mean log-ratio, which would have to be "
            f"{margin / beta:.3g} nats for every prefix of a right response; set prm.beta=10, or a margin of about prm.beta / 2"
        )


LOSS = PrmLoss(
    about="every prefix of the response foretells the outcome by its mean reward",
    source="IPVRM, arXiv 2604.13197",
    formulas=(
        Formula(
            text="1/T sum_t [r_o softplus(m - v_t) + (1 - r_o) softplus(m + v_t)], v_t = 1/t sum_{s<=t} r_s before normalisation",
            symbols={"m": "margin"},
            unless={"difficulty_offset": True},
        ),
        Formula(
            text="1/T sum_t [r_o softplus(m - b - v_t) + (1 - r_o) softplus(m + b + v_t)], v_t = 1/t sum_{s<=t} r_s before normalisation",
            symbols={"m": "margin"},
            when={"difficulty_offset": True},
        ),
        OFFSET_FORMULA,
        WEIGHT_FORMULA,
    ),
    settings=(
        OwnSetting(
            name="margin", default=5.0, low=0.0, meaning="How far from 0 prefix values are asked to be; half of beta is a good start."
        ),
        *BALANCING,
    ),
    contradictions=contradictions,
    losses=prefix_value,
    balance=balance,
    collapses_unbalanced=True,
)
