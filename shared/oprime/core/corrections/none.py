"""No correction."""

from oprime.core.importance import Correction, Tamed
from oprime.core.one_file import Formula
from oprime.core.tensors import Tensor


def none(log_weights: Tensor, is_trained: Tensor) -> Tamed:
    weight = log_weights.new_ones(log_weights.shape)
    return weight, weight != 1


CORRECTION = Correction(
    about="as if rollouts came from the proximal policy",
    source="the paper, whose runs sample and train in turns",
    formulas=(Formula(text="w = 1"),),
    weigh=none,
)
