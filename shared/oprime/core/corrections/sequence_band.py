"""Responses whose whole probability has moved too far do not count."""

from oprime.core.importance import Correction, Tamed, exp_of_log_ratio
from oprime.core.one_file import Formula, OwnSetting
from oprime.core.tensors import Tensor


def sequence_band(log_weights: Tensor, is_trained: Tensor, *, sequence_low: float, sequence_high: float) -> Tamed:
    """The same weight on every token of a response."""
    weight = exp_of_log_ratio(log_weights.where(is_trained, 0.0).sum(dim=1, keepdim=True).expand_as(log_weights))
    outside = (weight < sequence_low) | (weight > sequence_high)
    return weight.where(~outside, 0.0), outside


CORRECTION = Correction(
    about="the product over the response; responses in which it lies outside [`sequence_low`, `sequence_high`] are rejected",
    source="masked importance sampling per sequence: `sequence_mask` of TRL, `rollout_rs = sequence` of verl",
    formulas=(
        Formula(
            text="w = the product over the response of pi_proximal / pi_behaviour where it lies in [a, b], else 0; no gradient",
            symbols={"a": "sequence_low", "b": "sequence_high"},
        ),
    ),
    settings=(
        OwnSetting(name="sequence_low", default=0.5, above=0.0, high=1.0, meaning="Smallest product over a response that counts."),
        OwnSetting(name="sequence_high", default=2.0, low=1.0, meaning="Largest product over a response that counts."),
    ),
    weigh=sequence_band,
)
