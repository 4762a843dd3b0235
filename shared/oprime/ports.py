"""What the services need from the outside world, without naming a technology.

Every port has one contract suite in `tests/contract` that runs against each of its adapters.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

    from oprime.core.token_rows import TokenRows

TICKETS = "tickets"
ROLLOUTS = "rollouts"
VERDICTS = "verdicts"
BATCHES = "batches"
SCORED = "scored"
STEPS = "steps"
STREAMS = (TICKETS, ROLLOUTS, VERDICTS, BATCHES, SCORED, STEPS)
"""The queues, in the order in which one prompt travels. Each has exactly one consuming service."""

LIVE = "live"
"""Ledger state of a rollout that is under way. Terminal states are `trained:STEP`, `baseline:STEP` (what the others
of its group were compared with at that step), `filtered:REASON`, `dropped:REASON` and `dead:STREAM`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """An entry on loan to a worker, until it is committed, acknowledged or its lease runs out."""

    stream: str
    entry: str
    """The queue's own id of the entry."""
    key: str
    """The sender's id of the entry, for example a rollout id."""
    payload: bytes
    attempt: int
    """1 for the first delivery."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """An entry to append to a stream."""

    stream: str
    key: str
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerMove:
    """Moves one rollout to another ledger state; `live` issues it."""

    rollout_id: str
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """An entry set aside for a person."""

    entry: str
    stream: str
    key: str
    payload: bytes
    reason: str
    rollout_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueDepth:
    stream: str
    waiting: int
    """Entries that nobody has taken yet."""
    pending: int
    """Entries on loan."""
    oldest_s: float
    """Age of the oldest entry in seconds; 0 when empty."""


class Queue(Protocol):
    """Streams of work, the ledger of rollouts, and small shared values. Everything of one run.

    A stage commits its work in one atomic step: the mark makes it count once, however often it was repeated.
    """

    async def commit(
        self,
        mark: str,
        *,
        outputs: Sequence[Output] = (),
        moves: Sequence[LedgerMove] = (),
        values: Mapping[str, bytes] | None = None,
        consumed: Sequence[Delivery] = (),
    ) -> bool:
        """Record `mark` (`stage:id`); if it is new, apply outputs, ledger moves and values. Always acknowledge `consumed`.

        Only `live -> terminal` and `absent -> live` moves act; a terminal state is final. Returns whether the mark was new.
        """
        ...

    async def receive(self, stream: str, consumer: str, *, most: int = 1, wait_s: float) -> list[Delivery]:
        """Borrow up to `most` entries: first those whose lease ran out elsewhere, then new ones, oldest first.

        Entries that were already delivered `max_deliveries` times become dead letters instead.
        """
        ...

    async def receive_again(self, stream: str, consumer: str) -> list[Delivery]:
        """All entries that `consumer` still holds, oldest first: what a restarted stateful service begins with."""
        ...

    async def receive_held(self, stream: str, consumer: str, *, most: int = 1, wait_s: float) -> list[Delivery]:
        """Like `receive`, for a single stateful consumer: takes new entries only, never reclaims or dead-letters."""
        ...

    async def renew(self, deliveries: Sequence[Delivery], consumer: str) -> None:
        """Extend the lease of entries that `consumer` still holds."""
        ...

    async def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Remove entries without a commit; used where a checkpoint, not a commit, ends the need for an entry."""
        ...

    async def dead_letter(self, delivery: Delivery, *, reason: str, rollout_ids: Sequence[str] = ()) -> None:
        """Set an entry aside and move its rollouts to `dead:STREAM`."""
        ...

    async def dead_letters(self) -> list[DeadLetter]: ...

    async def replay(self, letter: DeadLetter) -> bool:
        """Put a dead letter back on its stream and its rollouts back to `live`; False if it was no longer there."""
        ...

    async def depth(self, stream: str) -> QueueDepth: ...

    async def ledger_counts(self) -> dict[str, int]:
        """`issued` and, by state without the step of `trained` and `baseline`, the number of rollouts in each state."""
        ...

    def ledger_entries(self) -> AsyncIterator[tuple[str, str]]:
        """Every rollout id with its state, for audits and checkpoints."""
        ...

    async def restore_ledger(self, entries: Mapping[str, str]) -> None:
        """Replace the ledger, for a resume onto an empty queue."""
        ...

    async def set_value(self, name: str, value: bytes) -> None: ...

    async def value(self, name: str) -> bytes | None: ...

    async def values(self, prefix: str) -> dict[str, bytes]: ...

    async def take_turn(self, name: str, owner: str, *, seconds: float) -> bool:
        """Take or extend a named lease; False while another owner holds it."""
        ...

    async def end_turn(self, name: str, owner: str) -> None: ...

    async def ping(self) -> None:
        """Raise QueueUnavailableError unless the queue answers."""
        ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightVersion:
    """A published, immutable version of a model's weights."""

    version: int
    directory: Path
    """Local directory in Hugging Face form (safetensors, config, tokenizer)."""
    bytes: int


class WeightStore(Protocol):
    """Versioned weights. A version exists from the moment its manifest does."""

    def publish(self, version: int, tensors: Iterator[tuple[str, "torch.Tensor"]], *, parent: int | None) -> WeightVersion:
        """Write a version; publishing an existing one returns it unchanged."""
        ...

    def publish_directory(self, version: int, directory: Path) -> WeightVersion:
        """Publish the model of a Hugging Face directory, byte for byte; an existing version is returned unchanged."""
        ...

    def latest(self) -> int | None: ...

    def versions(self) -> list[int]: ...

    def fetch(self, version: int) -> WeightVersion:
        """Make a version local and check every tensor's checksum; WeightsRefusedError names what is wrong."""
        ...

    def prune(self, keep: set[int], newest: int) -> list[int]:
        """Remove all versions but those in `keep` and the `newest` most recent; returns what was removed."""
        ...


class Clock(Protocol):
    def now(self) -> float:
        """Seconds of a monotonic clock."""
        ...

    async def sleep(self, seconds: float) -> None: ...


class Metrics(Protocol):
    def count(self, name: str, amount: float = 1, **labels: str) -> None: ...

    def gauge(self, name: str, value: float, **labels: str) -> None: ...

    def observe(self, name: str, value: float, **labels: str) -> None: ...


class TrainEngine(Protocol):
    """A language model with its optimizer, policy, PRM or critic, spread over the ranks of one process group."""

    @property
    def rank(self) -> int: ...

    @property
    def world_size(self) -> int: ...

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

    def weights(self) -> Iterator[tuple[str, "torch.Tensor"]]:
        """Full tensors under their Hugging Face names, on the CPU. Collective: every rank must iterate."""
        ...

    def save(self, directory: Path) -> None:
        """Write weights, optimizer and RNG state. Collective."""
        ...

    def load(self, directory: Path) -> None: ...

    def broadcast(self, payload: bytes | None) -> bytes:
        """Give rank 0's payload to every rank."""
        ...

    def all_sum(self, values: "torch.Tensor") -> "torch.Tensor": ...

    def all_max(self, values: "torch.Tensor") -> "torch.Tensor": ...

    def gather(self, payload: bytes) -> list[bytes] | None:
        """Every rank's payload, in rank order, on rank 0; None elsewhere."""
        ...
