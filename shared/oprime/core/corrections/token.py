"""Truncated importance sampling per token."""

from oprime.core.importance import Correction, Tamed, capped, exp_of_log_ratio
from oprime.core.one_file import Formula, OwnSetting
from oprime.core.tensors import Tensor

IMPORTANCE_CAP = OwnSetting(
    name="importance_cap", default=2.0, low=1.0, meaning="Truncated importance sampling: largest weight of a token or a sequence."
)


def token(log_weights: Tensor, is_trained: Tensor, *, importance_cap: float) -> Tamed:
    return capped(exp_of_log_ratio(log_weights), importance_cap)


CORRECTION = Correction(
    about="truncated at `importance_cap` per token",
    source="truncated importance sampling as in IMPALA, arXiv 1802.01561",
    formulas=(Formula(text="w = min(pi_proximal / pi_behaviour, c) per token, no gradient", symbols={"c": "importance_cap"}),),
    settings=(IMPORTANCE_CAP,),
    weigh=token,
)
