"""What the services need from the outside world, without naming a technology.

Every port has one contract suite in `tests/contract` that runs against each of its adapters.
"""

from oprime.ports.clock import Clock
from oprime.ports.commit import Commits, Committed
from oprime.ports.engine import TrainEngine
from oprime.ports.leases import Fence, Turns
from oprime.ports.ledger import LIVE, Ledger, LedgerMove, Snapshot
from oprime.ports.metrics import Metrics
from oprime.ports.payloads import Payloads, payload_owner, payload_written_at
from oprime.ports.queue import Queue
from oprime.ports.streams import (
    BATCHES,
    DEAD,
    ROLLOUTS,
    SCORED,
    STEPS,
    STREAMS,
    TICKETS,
    VERDICTS,
    DeadLetter,
    Delivery,
    Output,
    QueueDepth,
    Streams,
)
from oprime.ports.traces import Attribute, Kind, Span, Traces
from oprime.ports.tracker import Cell, TableRow, TrackedRun, Tracker
from oprime.ports.values import Values
from oprime.ports.weights import WeightStore, WeightVersion

__all__ = [
    "BATCHES",
    "DEAD",
    "LIVE",
    "ROLLOUTS",
    "SCORED",
    "STEPS",
    "STREAMS",
    "TICKETS",
    "VERDICTS",
    "Attribute",
    "Cell",
    "Clock",
    "Commits",
    "Committed",
    "DeadLetter",
    "Delivery",
    "Fence",
    "Kind",
    "Ledger",
    "LedgerMove",
    "Metrics",
    "Output",
    "Payloads",
    "Queue",
    "QueueDepth",
    "Snapshot",
    "Span",
    "Streams",
    "TableRow",
    "Traces",
    "TrackedRun",
    "Tracker",
    "TrainEngine",
    "Turns",
    "Values",
    "WeightStore",
    "WeightVersion",
    "payload_owner",
    "payload_written_at",
]
