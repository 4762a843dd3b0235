"""Entries of the queues, decoded and checked in one place: one that is no valid record is named, and crashes nobody."""

from collections.abc import Callable
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from oprime.core.types import Batch, ScoredBatch
from oprime.ports import Delivery
from oprime.runtime.errors import UnusableInputError
from oprime.wire.codec import batch_from_proto, scored_batch_from_proto
from oprime_proto.v1 import common_pb2 as pb

MessageT = TypeVar("MessageT", bound=Message)
RecordT = TypeVar("RecordT")


def read_entry(delivery: Delivery, message: type[MessageT], convert: Callable[[MessageT], RecordT]) -> RecordT:
    """The record in an entry. Raises UnusableInputError for bytes that are not `message`, or one that is no valid record."""
    try:
        return convert(message.FromString(delivery.payload))
    except (DecodeError, LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise UnusableInputError(
            f"entry {delivery.key!r} of {delivery.stream} ({len(delivery.payload)} bytes) is no readable {message.DESCRIPTOR.name} "
            f"({error}): its sender runs another version, or something else wrote it"
        ) from error


def batch_of(delivery: Delivery) -> Batch:
    """The batch of a `batches` entry. Raises UnusableInputError."""
    batch = read_entry(delivery, pb.Batch, batch_from_proto)
    if not batch.groups:
        raise UnusableInputError(f"batch {delivery.key} has no groups")
    _check(delivery, batch)
    return batch


def scored_batch_of(delivery: Delivery) -> ScoredBatch:
    """The scored batch of a `scored` entry; without groups it stands for a batch that the PRM set aside. Raises UnusableInputError."""
    scored = read_entry(delivery, pb.ScoredBatch, scored_batch_from_proto)
    _check(delivery, scored.batch)
    if scored.batch.groups and not scored.process_rewards:
        raise UnusableInputError(f"scored batch {delivery.key} names no token rewards, but has {len(scored.batch.groups)} groups")
    return scored


def _check(delivery: Delivery, batch: Batch) -> None:
    if str(batch.step) != delivery.key:
        raise UnusableInputError(f"entry {delivery.key} of {delivery.stream} holds batch {batch.step}")
    if not all(group.rollouts for group in batch.groups):
        raise UnusableInputError(f"batch {delivery.key} has a group without rollouts")
    for verified in (*batch.rollouts, *batch.baselines):
        if verified.outcome.score is None:
            raise UnusableInputError(f"batch {delivery.key}: rollout {verified.rollout.rollout_id} has no score: it cannot be trained on")
