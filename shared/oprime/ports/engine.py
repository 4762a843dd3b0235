"""What trains a model."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

    from oprime.core.token_rows import TokenRows


class TrainEngine(Protocol):
    """A language model with its optimizer, policy, PRM or critic, spread over the ranks of one process group."""

    @property
    def rank(self) -> int: ...

    @property
    def world_size(self) -> int: ...

    @property
    def shares_prompts(self) -> bool:
        """Whether siblings of a micro-batch cost their prompt once."""
        ...

    def logprobs(self, rows: "TokenRows") -> "torch.Tensor":
        """Log-prob of every token given those before it, [rollout, token] float32 on the CPU; 0 outside the response."""
        ...

    def values(self, rows: "TokenRows") -> "torch.Tensor":
        """V of what precedes every token, laid out as `logprobs`, of an engine that trains a critic."""
        ...

    def train_step(
        self,
        micro_batches: Sequence["TokenRows"],
        loss: Callable[..., "torch.Tensor"],
        *,
        learning_rate: float,
        entropies: bool = False,
    ) -> float:
        """One optimizer step on the sum over micro-batches and ranks of `loss(i, logprobs_i)`; returns the gradient norm.

        `loss` gets the index of the micro-batch and its log-probs (a critic's values) with gradient, and returns a scalar: this
        micro-batch's share of the whole step's loss (already divided by the step's global token or rollout count). All ranks must pass
        equally many micro-batches. With `entropies` the loss is called with a third argument, the entropy in nats of the
        distribution that each response token was drawn from, with gradient and laid out like the log-probs.
        """
        ...

    def weights(self, *, master: bool = False) -> Iterator[tuple[str, "torch.Tensor"]]:
        """Full tensors under the names that they have in the model, on the CPU; adapters are added to what they adapt. Collective: every
        rank must iterate.

        They have the type that the model computes in; with `master` those that the optimizer updates are float32, and what is made of them.
        """
        ...

    def trained_weights(self) -> Iterator[tuple[str, "torch.Tensor"]]:
        """Those that the optimizer updates, as they are: adapters, of a model that has them. Collective."""
        ...

    def published_weights(self, *, master: bool = False) -> Iterator[tuple[str, "torch.Tensor"]]:
        """The same under the names, and in the pieces, of the model's files, which samplers know. Collective."""
        ...

    def save(self, directory: Path) -> None:
        """Write weights, optimizer and RNG state. Collective."""
        ...

    def load(self, directory: Path) -> None: ...

    def all_sum(self, values: "torch.Tensor") -> "torch.Tensor": ...

    def gather(self, payload: bytes) -> list[bytes] | None:
        """Every rank's payload, in rank order, on rank 0; None elsewhere."""
        ...
