"""How many operations models need, and how many this machine can do.

A forward equivalent is what one forward pass over a token costs; the backward pass costs two. What counts is what has to be computed:
the matrix products with weights, no padding, the prompt of siblings once, no head on it, nothing recomputed; attention
scores, a few percent here, are left out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from oprime.runtime.settings import AlgorithmSection
    from oprime_learner.config import LearnerSection
    from oprime_prm.config import PrmSection

FORWARD = 1
TRAINING = 3
"""Forward equivalents of a training pass: the forward pass and the backward pass."""
SAMPLING = FORWARD


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """Of a decoder with gated feed-forward layers and grouped-query attention, such as Qwen2."""

    hidden: int
    layers: int
    heads: int
    key_value_heads: int
    head_size: int
    feed_forward: int
    vocabulary: int

    @classmethod
    def of(cls, config: Any) -> Self:
        """From a transformers config."""
        return cls(
            hidden=config.hidden_size,
            layers=config.num_hidden_layers,
            heads=config.num_attention_heads,
            key_value_heads=config.num_key_value_heads,
            head_size=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
            feed_forward=config.intermediate_size,
            vocabulary=config.vocab_size,
        )

    @property
    def layer_weights(self) -> int:
        """Weights of one layer's matrices."""
        attention = 2 * self.hidden * self.head_size * (self.heads + self.key_value_heads)
        return attention + 3 * self.hidden * self.feed_forward

    def forward_operations(self, *, tokens: float, predicted: float) -> float:
        """Of a forward pass over `tokens`, of which `predicted` have the head compute their successor's log-probs."""
        return 2.0 * (tokens * self.layers * self.layer_weights + predicted * self.hidden * self.vocabulary)


def prm_passes(prm: "PrmSection") -> int:
    """Forward equivalents per trained token of a PRM with these settings, as `ImplicitPrm.process` goes through a batch."""
    reference = FORWARD if prm.reference == "sft" else 0
    training = 0 if prm.update == "offline" else TRAINING
    scores_while_training = prm.update == "single_forward" and prm.updates_per_batch == 1
    return reference + training + (0 if scores_while_training else FORWARD)


def learner_passes(learner: "LearnerSection", algorithm: "AlgorithmSection") -> int:
    """Forward equivalents per trained token of the policy with these settings, as `PolicyTrainer.process` goes through a batch."""
    has_kl = algorithm.kl_coefficient > 0
    proximal = FORWARD if learner.updates_per_batch > 1 or (has_kl and algorithm.kl_in == "reward") else 0
    return proximal + (FORWARD if has_kl else 0) + TRAINING


def matrix_rate(clock: Callable[[], float], device: str = "cpu", *, size: int = 2048, repeats: int = 5) -> float:
    """Operations per second, by `clock`, of a float32 matrix product: the best of some."""
    import torch

    one, other = torch.randn(size, size, device=device), torch.randn(size, size, device=device)
    best = float("inf")
    for _ in range(repeats):
        started = clock()
        torch.mm(one, other)
        best = min(best, clock() - started)
    return 2.0 * size**3 / best
