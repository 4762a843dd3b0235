"""Where the learner's batches come from: the PRM, or the coordinator itself in a run that trains on outcomes alone."""

from collections.abc import Callable
from dataclasses import dataclass

from oprime.core.types import Batch, ScoredBatch
from oprime.ports import BATCHES, SCORED, Delivery
from oprime.runtime.entries import batch_of, scored_batch_of
from oprime.runtime.settings import AlgorithmSection
from oprime.wire.codec import batch_from_proto, scored_batch_from_proto
from oprime_proto.v1 import common_pb2 as pb


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    stream: str
    checked: Callable[[Delivery], ScoredBatch]
    """The batch of an entry. Raises UnusableInputError."""
    decoded: Callable[[bytes], ScoredBatch]
    """The batch of an entry that was checked before."""


def source_of(algorithm: AlgorithmSection) -> Source:
    return FROM_PRM if algorithm.needs_prm else FROM_COORDINATOR


def unscored(batch: Batch) -> ScoredBatch:
    """The batch without process rewards, which nothing reads."""
    return ScoredBatch(batch=batch, process_rewards=(), prm_version=0)


FROM_PRM = Source(
    stream=SCORED,
    checked=scored_batch_of,
    decoded=lambda payload: scored_batch_from_proto(pb.ScoredBatch.FromString(payload)),
)
FROM_COORDINATOR = Source(
    stream=BATCHES,
    checked=lambda delivery: unscored(batch_of(delivery)),
    decoded=lambda payload: unscored(batch_from_proto(pb.Batch.FromString(payload))),
)
