"""Mean and variance of numbers that come in parts."""

import math

from jaxtyping import Float

from oprime.core.checked import checked
from oprime.core.tensors import Tensor


class Moments:
    """Of all numbers so far, as if they had come at once (Chan, Golub and LeVeque 1979). In float64."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = 0.0
        self.largest = 0.0
        """Largest absolute value."""
        self._squares = 0.0
        """Sum of squared distances from the mean."""

    @checked
    def add(self, values: Float[Tensor, " number"]) -> None:
        if len(values) == 0:
            return
        values = values.double()
        mean = float(values.mean())
        count, difference = self.count + len(values), mean - self.mean
        self._squares += float((values - mean).square().sum()) + difference**2 * self.count * len(values) / count
        self.mean += difference * len(values) / count
        self.count = count
        self.largest = max(self.largest, float(values.abs().max()))

    @property
    def deviation(self) -> float:
        """Standard deviation; nan for less than two numbers."""
        return self.variance**0.5

    @property
    def variance(self) -> float:
        """Unbiased; nan for less than two numbers."""
        return self._squares / (self.count - 1) if self.count > 1 else math.nan


def correlation(one: Moments, other: Moments, of_their_sums: Moments) -> float:
    """Of two numbers of each item, from the moments of each and of their sum; nan where one of them does not vary."""
    if one.count < 2 or one.variance == 0 or other.variance == 0:
        return math.nan
    covariance = (of_their_sums.variance - one.variance - other.variance) / 2
    return max(-1.0, min(1.0, covariance / (one.deviation * other.deviation)))
