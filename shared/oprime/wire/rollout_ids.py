"""Which rollouts a queue entry carries: what the ledger must know when an entry is set aside."""

from collections.abc import Callable, Iterable

from google.protobuf.message import DecodeError

from oprime.core.types import rollout_id
from oprime.ports import BATCHES, ROLLOUTS, SCORED, STEPS, STREAMS, TICKETS, VERDICTS
from oprime_proto.v1 import common_pb2 as pb


def rollout_ids(stream: str, payload: bytes) -> tuple[str, ...]:
    """Ids of the rollouts in one entry of `stream`, in order. ValueError if the payload is not a message of that stream."""
    reader = _READERS.get(stream)
    if reader is None:
        raise ValueError(f"unknown stream {stream!r}: streams are {', '.join(STREAMS)}")
    try:
        return reader(payload)
    except DecodeError as error:
        raise ValueError(f"an entry of stream {stream} ({len(payload)} bytes) is not a readable message: {error}") from error


def _of_ticket(payload: bytes) -> tuple[str, ...]:
    ticket = pb.Ticket.FromString(payload)
    return tuple(rollout_id(ticket.group_id, index) for index in range(len(ticket.seeds) + ticket.greedy_baseline))


def _of_verification_task(payload: bytes) -> tuple[str, ...]:
    task = pb.VerificationTask.FromString(payload)
    if not task.HasField("rollout"):
        raise ValueError(f"an entry of stream {ROLLOUTS} ({len(payload)} bytes) holds no rollout")
    return (rollout_id(task.rollout.group_id, task.rollout.index),)


def _of_event(payload: bytes) -> tuple[str, ...]:
    event = pb.RolloutEvent.FromString(payload)
    if event.HasField("dropped"):
        return (rollout_id(event.dropped.group_id, event.dropped.index),)
    if not event.verified.HasField("rollout"):
        raise ValueError(f"an entry of stream {VERDICTS} ({len(payload)} bytes) holds neither a verified nor a dropped rollout")
    return _of_verified([event.verified])


def _of_batch(payload: bytes) -> tuple[str, ...]:
    return _of_groups(pb.Batch.FromString(payload).groups)


def _of_scored_batch(payload: bytes) -> tuple[str, ...]:
    return _of_groups(pb.ScoredBatch.FromString(payload).batch.groups)


def _of_groups(groups: Iterable[pb.VerifiedGroup]) -> tuple[str, ...]:
    return _of_verified(verified for group in groups for verified in _issued(group))


def _issued(group: pb.VerifiedGroup) -> list[pb.VerifiedRollout]:
    return [*group.rollouts, group.baseline] if group.HasField("baseline") else list(group.rollouts)


def _of_verified(rollouts: Iterable[pb.VerifiedRollout]) -> tuple[str, ...]:
    return tuple(rollout_id(verified.rollout.group_id, verified.rollout.index) for verified in rollouts)


def _of_committed_step(payload: bytes) -> tuple[str, ...]:
    pb.CommittedStep.FromString(payload)
    return ()


_READERS: dict[str, Callable[[bytes], tuple[str, ...]]] = {
    TICKETS: _of_ticket,
    ROLLOUTS: _of_verification_task,
    VERDICTS: _of_event,
    BATCHES: _of_batch,
    SCORED: _of_scored_batch,
    STEPS: _of_committed_step,
}
