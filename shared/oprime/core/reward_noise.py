"""How much of token rewards is rounding: log-ratios as they were computed, beside those of the same weights in float32."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float

from oprime.core.checked import checked
from oprime.core.moments import Moments
from oprime.core.tensors import Tensor

NOISE_RETURN = "prm_noise_return"
"""Metric of a step: `RewardNoise.largest_return` in units of rewards, for the learner's normalisation."""


@dataclass(frozen=True, slots=True)
class RewardNoise:
    """Of log(pi_phi / pi_ref), in nats: beta times it is the reward."""

    nats: float
    """Root mean square over tokens of what rounding adds."""
    signal_nats: float
    """Root mean square over tokens of the exact values."""
    largest_return: float
    """Largest absolute sum of what rounding adds, from any token to the end of its response: what normalisation would see of it alone."""

    @property
    def signal_to_noise(self) -> float:
        """Below 1 rewards are mostly rounding; nan without noise."""
        return self.signal_nats / self.nats if self.nats > 0 else math.nan

    @property
    def correlation(self) -> float:
        """Of computed and exact values, where rounding does not depend on the latter; nan without noise."""
        ratio = self.signal_to_noise
        return ratio / math.sqrt(1 + ratio**2)


@checked
def reward_noise(computed: Sequence[Float[Tensor, " _"]], exact: Sequence[Float[Tensor, " _"]]) -> RewardNoise:
    """Compare log-ratios of the same responses, one tensor each. Without tokens everything is 0."""
    noise, signal, largest = Moments(), Moments(), 0.0
    for ours, theirs in zip(computed, exact, strict=True):
        if not len(theirs):
            continue
        error = ours.double() - theirs.double()
        noise.add(error.square())
        signal.add(theirs.double().square())
        largest = max(largest, float(error.flip(0).cumsum(0).abs().max()))
    return RewardNoise(nats=math.sqrt(noise.mean), signal_nats=math.sqrt(signal.mean), largest_return=largest)
