"""Which payloads a queue entry names: what must be in the store for as long as somebody needs it."""

from collections.abc import Iterable

from google.protobuf.message import DecodeError

from oprime.ports import BATCHES, ROLLOUTS, SCORED, TICKETS, VERDICTS
from oprime_proto.v1 import common_pb2 as pb

NAMING = (TICKETS, ROLLOUTS, VERDICTS, BATCHES, SCORED)
"""Streams whose entries name payloads, in the order in which rollouts travel."""


def payload_names(stream: str, entry: bytes) -> tuple[str, ...]:
    """Names in one entry of `stream`; none for an entry that cannot be read, which its consumer sets aside."""
    try:
        return tuple(name for name in _names(stream, entry) if name)
    except DecodeError:
        return ()


def _names(stream: str, entry: bytes) -> Iterable[str]:
    if stream == TICKETS:
        return (pb.Ticket.FromString(entry).material,)
    if stream == ROLLOUTS:
        task = pb.VerificationTask.FromString(entry)
        return (*_of_record(task.rollout), task.material)
    if stream == VERDICTS:
        return _of_record(pb.RolloutEvent.FromString(entry).verified.rollout)
    if stream == BATCHES:
        return _of_batch(pb.Batch.FromString(entry))
    scored = pb.ScoredBatch.FromString(entry)
    return (*_of_batch(scored.batch), *scored.process_rewards)


def _of_record(record: pb.RolloutRecord) -> tuple[str, str]:
    return record.payload, record.text


def _of_batch(batch: pb.Batch) -> Iterable[str]:
    for group in batch.groups:
        for verified in (*group.rollouts, group.baseline):
            yield from _of_record(verified.rollout)
