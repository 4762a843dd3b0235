"""Responses whose tokens' probabilities have moved too far on average do not count, however long they are."""

from oprime.core.corrections.token import IMPORTANCE_CAP
from oprime.core.importance import Correction, Tamed, capped, exp_of_log_ratio
from oprime.core.masked import masked_mean
from oprime.core.one_file import Formula, OwnSetting
from oprime.core.tensors import Tensor


def geometric_band(log_weights: Tensor, is_trained: Tensor, *, geometric_low: float, geometric_high: float, importance_cap: float) -> Tamed:
    mean = exp_of_log_ratio(masked_mean(log_weights, is_trained))[:, None].expand_as(log_weights)
    outside = (mean < geometric_low) | (mean > geometric_high)
    weight, over = capped(exp_of_log_ratio(log_weights), importance_cap)
    return weight.where(~outside, 0.0), outside | over


CORRECTION = Correction(
    about="per token, truncated at `importance_cap`; responses whose geometric mean lies outside [`geometric_low`, `geometric_high`] are "
    "rejected",
    source="`rollout_rs = geometric` with `rollout_is = token` of verl",
    formulas=(
        Formula(
            text="w = min(pi_proximal / pi_behaviour, c) per token where exp(mean over the response of log(pi_proximal / pi_behaviour)) "
            "lies in [a, b], else 0; no gradient",
            symbols={"a": "geometric_low", "b": "geometric_high", "c": "importance_cap"},
        ),
    ),
    settings=(
        OwnSetting(
            name="geometric_low", default=0.99, above=0.0, high=1.0, meaning="Smallest geometric mean of a response's weights that counts."
        ),
        OwnSetting(name="geometric_high", default=1.01, low=1.0, meaning="Largest geometric mean of a response's weights that counts."),
        IMPORTANCE_CAP,
    ),
    weigh=geometric_band,
)
