"""The queue of a run: all of its roles in one place, because a commit spans them."""

from typing import Protocol

from oprime.ports.commit import Commits
from oprime.ports.leases import Turns
from oprime.ports.ledger import Ledger
from oprime.ports.streams import Streams
from oprime.ports.values import Values


class Queue(Commits, Streams, Ledger, Values, Turns, Protocol):
    """Streams of work, the ledger of rollouts, and small shared values. Everything of one run.

    A stage commits its work in one atomic step: the mark makes it count once, however often it was repeated. Every
    method raises QueueUnavailableError when no answer came; what it asked for may then have happened or not.
    """

    async def ping(self) -> None:
        """Raise QueueUnavailableError unless the queue answers."""
        ...

    async def check_server(self) -> None:
        """Raise SettingsError if the server could lose entries by itself or is too old, QueueUnavailableError if it does not answer."""
        ...

    async def close(self) -> None: ...
