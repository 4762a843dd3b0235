"""The ledger: in which state every rollout is that was ever issued."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from oprime.ports.leases import Fence

LIVE = "live"
"""Ledger state of a rollout that is under way. Terminal states are `trained:STEP`, `baseline:STEP` (what the others
of its group were compared with at that step), `filtered:REASON`, `dropped:REASON` and `dead:STREAM`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerMove:
    """Moves one rollout to another ledger state; `live` issues it."""

    rollout_id: str
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Ledger and values as they were at one moment."""

    ledger: Mapping[str, str]
    """Rollout id -> state."""
    values: Mapping[str, bytes]
    """Without those that expire."""


class Ledger(Protocol):
    """Read here; rollouts move from state to state by commits."""

    async def ledger_counts(self) -> dict[str, int]:
        """`issued` and, by state without the step of `trained` and `baseline`, the number of rollouts in each state."""
        ...

    def ledger_entries(self) -> AsyncIterator[tuple[str, str]]:
        """Every rollout id with its state. Read in pages while the run goes on: `snapshot` shows one moment."""
        ...

    async def ledger_states(self, rollout_ids: Sequence[str]) -> dict[str, str]:
        """The states of those of `rollout_ids` that were issued."""
        ...

    async def snapshot(self) -> Snapshot:
        """The whole ledger and all lasting values, as of one moment."""
        ...

    async def restore_ledger(self, entries: Mapping[str, str], *, fence: Fence | None = None) -> None:
        """Replace the ledger, for a resume onto an empty queue."""
        ...
