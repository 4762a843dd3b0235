"""Which rollouts a queue entry carries."""

import pytest

from oprime.core.types import DroppedRollout
from oprime.ports import BATCHES, ROLLOUTS, SCORED, STEPS, STREAMS, TICKETS, VERDICTS
from oprime.wire.codec import event_from_proto, event_to_proto
from oprime.wire.rollout_ids import rollout_ids
from oprime_proto.v1 import common_pb2 as pb


def verified(group_id: int, index: int) -> pb.VerifiedRollout:
    return pb.VerifiedRollout(rollout=pb.RolloutRecord(group_id=group_id, index=index))


def batch() -> pb.Batch:
    return pb.Batch(
        step=3,
        groups=[
            pb.VerifiedGroup(group_id=9, rollouts=[verified(9, 1), verified(9, 0)]),
            pb.VerifiedGroup(group_id=4, rollouts=[verified(4, 0)]),
        ],
    )


def test_a_ticket_carries_a_rollout_per_seed() -> None:
    ticket = pb.Ticket(group_id=12, seeds=[5, 5, 8])
    assert rollout_ids(TICKETS, ticket.SerializeToString()) == ("12:0", "12:1", "12:2")
    ticket.greedy_baseline = True
    assert rollout_ids(TICKETS, ticket.SerializeToString()) == ("12:0", "12:1", "12:2", "12:3")


def test_a_verification_task_carries_its_rollout() -> None:
    task = pb.VerificationTask(rollout=pb.RolloutRecord(group_id=12, index=3), material="task/12/name")
    assert rollout_ids(ROLLOUTS, task.SerializeToString()) == ("12:3",)


def test_the_very_first_rollout_is_found_although_all_its_numbers_are_zero() -> None:
    task = pb.VerificationTask(rollout=pb.RolloutRecord())
    assert rollout_ids(ROLLOUTS, task.SerializeToString()) == ("0:0",)


def test_a_verdict_carries_its_rollout_verified_or_dropped() -> None:
    assert rollout_ids(VERDICTS, pb.RolloutEvent(verified=verified(12, 3)).SerializeToString()) == ("12:3",)
    dropped = event_to_proto(DroppedRollout(group_id=12, index=4, reason="verifier error"))
    assert rollout_ids(VERDICTS, dropped.SerializeToString()) == ("12:4",)


def test_a_dropped_rollout_keeps_its_reason_and_the_tokens_that_were_sampled() -> None:
    dropped = DroppedRollout(group_id=12, index=4, reason="stale", response_tokens=300)
    assert event_from_proto(event_to_proto(dropped)) == dropped


def test_a_batch_carries_all_its_rollouts_in_order_scored_or_not() -> None:
    assert rollout_ids(BATCHES, batch().SerializeToString()) == ("9:1", "9:0", "4:0")
    scored = pb.ScoredBatch(batch=batch(), process_rewards=["rewards/3/name"], prm_version=2)
    assert rollout_ids(SCORED, scored.SerializeToString()) == ("9:1", "9:0", "4:0")


def test_a_batch_carries_its_greedy_baselines_too() -> None:
    message = batch()
    message.groups[0].baseline.CopyFrom(verified(9, 2))
    assert rollout_ids(BATCHES, message.SerializeToString()) == ("9:1", "9:0", "9:2", "4:0")
    assert rollout_ids(SCORED, pb.ScoredBatch(batch=message).SerializeToString()) == ("9:1", "9:0", "9:2", "4:0")


def test_a_committed_step_carries_none() -> None:
    assert rollout_ids(STEPS, pb.CommittedStep(step=3).SerializeToString()) == ()


@pytest.mark.parametrize("stream", STREAMS)
def test_bytes_that_are_no_message_are_refused(stream: str) -> None:
    with pytest.raises(ValueError, match=rf"an entry of stream {stream} \(4 bytes\) is not a readable message"):
        rollout_ids(stream, b"\xff\xff\xff\xff")


@pytest.mark.parametrize(("stream", "what"), [(ROLLOUTS, "holds no rollout"), (VERDICTS, "neither a verified nor a dropped rollout")])
def test_a_message_without_its_rollout_is_refused(stream: str, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        rollout_ids(stream, b"")


def test_an_unknown_stream_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown stream 'rollout': streams are tickets, rollouts"):
        rollout_ids("rollout", b"")
