"""Streams of work: entries that are appended by a commit and lent to workers."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

TICKETS = "tickets"
ROLLOUTS = "rollouts"
VERDICTS = "verdicts"
BATCHES = "batches"
SCORED = "scored"
STEPS = "steps"
STREAMS = (TICKETS, ROLLOUTS, VERDICTS, BATCHES, SCORED, STEPS)
"""The queues, in the order in which one prompt travels. Each has exactly one consuming service."""

DEAD = "dead"
"""Where dead letters are; nobody receives from it."""


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
class DeadLetter:
    """An entry set aside for a person. Its payload stays in the queue, for `replay`."""

    entry: str
    """Letters sort by it, in the order in which they were set aside."""
    stream: str
    key: str
    payload_bytes: int
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


class Streams(Protocol):
    """Entries are borrowed for the time of a lease. They leave by a commit that consumes them, `acknowledge` or `dead_letter`."""

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

    async def give_back(self, deliveries: Sequence[Delivery], consumer: str) -> None:
        """Return entries that `consumer` still holds and did not work on: others get them at once, and the delivery does not count."""
        ...

    async def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Remove entries without a commit; used where a checkpoint, not a commit, ends the need for an entry."""
        ...

    async def dead_letter(self, delivery: Delivery, *, reason: str, rollout_ids: Sequence[str] = ()) -> None:
        """Set an entry aside and move its rollouts to `dead:STREAM`."""
        ...

    async def dead_letters(self, *, after: str = "") -> list[DeadLetter]:
        """All letters that were set aside later than the letter `after`, oldest first."""
        ...

    async def replay(self, letter: DeadLetter) -> bool:
        """Put a dead letter back on its stream and its rollouts back to `live`; False if it was no longer there."""
        ...

    async def depth(self, stream: str) -> QueueDepth: ...

    def entries(self, stream: str) -> AsyncIterator[bytes]:
        """The payload of every entry, on loan or not, oldest first; nothing is taken. `stream` may be DEAD. Read in pages: an entry that
        comes or goes meanwhile may be among them or not."""
        ...
