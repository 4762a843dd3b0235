"""Truncated importance sampling per response."""

from oprime.core.corrections.token import IMPORTANCE_CAP
from oprime.core.importance import Correction, Tamed, capped, exp_of_log_ratio
from oprime.core.one_file import Formula
from oprime.core.tensors import Tensor


def sequence(log_weights: Tensor, is_trained: Tensor, *, importance_cap: float) -> Tamed:
    """The same weight on every token of a response."""
    return capped(exp_of_log_ratio(log_weights.sum(dim=1, keepdim=True).expand_as(log_weights)), importance_cap)


CORRECTION = Correction(
    about="the product over the response, truncated at `importance_cap`",
    source="truncated importance sampling, Ionides 2008",
    formulas=(
        Formula(text="w = min(product over the response of pi_proximal / pi_behaviour, c), no gradient", symbols={"c": "importance_cap"}),
    ),
    settings=(IMPORTANCE_CAP,),
    weigh=sequence,
)
