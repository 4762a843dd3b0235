"""Tokens whose weight lies outside a band do not count."""

from oprime.core.importance import Correction, Tamed, exp_of_log_ratio
from oprime.core.one_file import Formula, OwnSetting
from oprime.core.tensors import Tensor


def band(log_weights: Tensor, is_trained: Tensor, *, band_low: float, band_high: float) -> Tamed:
    weight = exp_of_log_ratio(log_weights)
    outside = (weight < band_low) | (weight > band_high)
    return weight.where(~outside, 0.0), outside


CORRECTION = Correction(
    about="masked where it lies outside [`band_low`, `band_high`]",
    source="masked importance sampling as in IcePop, arXiv 2510.18855",
    formulas=(
        Formula(
            text="w = pi_proximal / pi_behaviour where it lies in [a, b], else 0; no gradient", symbols={"a": "band_low", "b": "band_high"}
        ),
    ),
    settings=(
        OwnSetting(name="band_low", default=0.5, above=0.0, high=1.0, meaning="Smallest weight that counts."),
        OwnSetting(name="band_high", default=2.0, low=1.0, meaning="Largest weight that counts."),
    ),
    weigh=band,
)
