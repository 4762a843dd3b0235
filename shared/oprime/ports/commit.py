"""The atomic step in which every stage ends."""

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Protocol

from oprime.ports.leases import Fence
from oprime.ports.ledger import LedgerMove
from oprime.ports.streams import Delivery, Output


class Committed(Enum):
    """What became of a commit. True if the work counts now and did not before."""

    NEW = "new"
    KNOWN = "known"
    """The mark was there: this work counted before, by an earlier try of the same author or by another worker."""
    REFUSED = "refused"
    """A consumed entry is a dead letter: nothing happened, and a replay will do the work."""

    def __bool__(self) -> bool:
        return self is Committed.NEW


class Commits(Protocol):
    async def commit(
        self,
        mark: str,
        *,
        outputs: Sequence[Output] = (),
        moves: Sequence[LedgerMove] = (),
        values: Mapping[str, bytes | None] | None = None,
        consumed: Sequence[Delivery] = (),
        forget: Sequence[str] = (),
        fence: Fence | None = None,
    ) -> Committed:
        """Record `mark` (`stage:id`); if it is new, apply outputs, ledger moves and values. Always acknowledge `consumed`.

        Only `live -> terminal` and `absent -> live` moves act; a terminal state is final. A value of None removes the value.
        `forget` removes marks that no repetition can meet again. With `fence`, FencedError (and nothing happens) unless its
        token is still the newest of that turn.
        """
        ...
