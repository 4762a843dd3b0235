"""Core records to protobuf and back. The only place that knows both.

Entries of the queues and payloads are the same messages as gRPC's, serialised.
"""

import numpy as np
import numpy.typing as npt

from oprime.core.types import (
    Batch,
    ChatMessage,
    CommittedStep,
    DroppedRollout,
    FinishReason,
    Rollout,
    RolloutRecord,
    SamplingSettings,
    ScoredBatch,
    Segment,
    Ticket,
    TokenFloats,
    TokenIds,
    VerificationTask,
    VerifiedGroup,
    VerifiedRollout,
)
from oprime.wire.verification import outcome_from_proto, outcome_to_proto
from oprime_proto.v1 import common_pb2 as pb

_FINISH_TO_PROTO = {FinishReason.STOP: pb.FINISH_REASON_STOP, FinishReason.LENGTH: pb.FINISH_REASON_LENGTH}
_FINISH_FROM_PROTO = {number: reason for reason, number in _FINISH_TO_PROTO.items()}


def ids_to_bytes(ids: npt.ArrayLike) -> bytes:
    """Little-endian int32."""
    return np.asarray(ids, dtype="<i4").tobytes()


def ids_from_bytes(data: bytes) -> TokenIds:
    return np.frombuffer(data, dtype="<i4").astype(np.int32, copy=False)


def floats_to_bytes(values: npt.ArrayLike) -> bytes:
    """Little-endian float32."""
    return np.asarray(values, dtype="<f4").tobytes()


def floats_from_bytes(data: bytes) -> TokenFloats:
    return np.frombuffer(data, dtype="<f4").astype(np.float32, copy=False)


def messages_to_proto(messages: tuple[ChatMessage, ...]) -> list[pb.ChatMessage]:
    return [pb.ChatMessage(role=message.role, content=message.content) for message in messages]


def messages_from_proto(messages: "list[pb.ChatMessage]") -> tuple[ChatMessage, ...]:
    return tuple(ChatMessage(role=message.role, content=message.content) for message in messages)


def sampling_to_proto(sampling: SamplingSettings) -> pb.SamplingSettings:
    return pb.SamplingSettings(
        temperature=sampling.temperature,
        max_prompt_tokens=sampling.max_prompt_tokens,
        max_response_tokens=sampling.max_response_tokens,
        top_p=sampling.top_p if sampling.top_p < 1 else 0.0,
    )


def sampling_from_proto(message: pb.SamplingSettings) -> SamplingSettings:
    return SamplingSettings(
        temperature=message.temperature,
        max_prompt_tokens=message.max_prompt_tokens,
        max_response_tokens=message.max_response_tokens,
        top_p=message.top_p or 1.0,
    )


def ticket_to_proto(ticket: Ticket) -> pb.Ticket:
    return pb.Ticket(
        group_id=ticket.group_id,
        messages=messages_to_proto(ticket.messages),
        material=ticket.material,
        sampling=sampling_to_proto(ticket.sampling),
        seeds=ticket.seeds,
        min_weight_version=ticket.min_weight_version,
        greedy_baseline=ticket.greedy_baseline,
        trace=ticket.trace,
    )


def ticket_from_proto(message: pb.Ticket) -> Ticket:
    return Ticket(
        group_id=message.group_id,
        messages=messages_from_proto(list(message.messages)),
        material=message.material,
        sampling=sampling_from_proto(message.sampling),
        seeds=tuple(message.seeds),
        min_weight_version=message.min_weight_version,
        greedy_baseline=message.greedy_baseline,
        trace=message.trace,
    )


def rollout_to_proto(rollout: Rollout) -> pb.Rollout:
    return pb.Rollout(
        group_id=rollout.group_id,
        index=rollout.index,
        seed=rollout.seed,
        segments=[
            pb.Segment(
                token_ids=ids_to_bytes(segment.token_ids),
                trained=segment.trained,
                logprobs=floats_to_bytes(segment.logprobs),
                weight_version=segment.weight_version,
            )
            for segment in rollout.segments
        ],
        text=rollout.text,
        finish_reason=_FINISH_TO_PROTO[rollout.finish_reason],
    )


def rollout_from_proto(message: pb.Rollout) -> Rollout:
    """Raises ValueError for a message whose parts do not belong together: an empty one is not a rollout."""
    rollout = Rollout(
        group_id=message.group_id,
        index=message.index,
        seed=message.seed,
        segments=tuple(
            Segment(
                token_ids=ids_from_bytes(segment.token_ids),
                trained=segment.trained,
                logprobs=floats_from_bytes(segment.logprobs),
                weight_version=segment.weight_version,
            )
            for segment in message.segments
        ),
        text=message.text,
        finish_reason=_FINISH_FROM_PROTO[message.finish_reason],
    )
    for place, segment in enumerate(rollout.segments):
        tokens, logprobs = len(segment.token_ids), len(segment.logprobs)
        if logprobs != (tokens if segment.trained else 0):
            raise ValueError(
                f"segment {place} of rollout {rollout.rollout_id} has {tokens} tokens and {logprobs} log-probabilities: "
                f"{'one per token is needed' if segment.trained else 'it is not trained on, and has none'}"
            )
    trained = [segment.trained for segment in rollout.segments if len(segment.token_ids)]
    if not any(trained) or trained[0]:
        raise ValueError(
            f"rollout {rollout.rollout_id} has {len(trained)} segments with tokens: it needs one that is not trained on, then one that is"
        )
    return rollout


def record_to_proto(record: RolloutRecord) -> pb.RolloutRecord:
    return pb.RolloutRecord(
        group_id=record.group_id,
        index=record.index,
        tokens=record.tokens,
        trained_tokens=record.trained_tokens,
        oldest_weight_version=record.oldest_weight_version,
        newest_weight_version=record.newest_weight_version,
        finish_reason=_FINISH_TO_PROTO[record.finish_reason],
        payload=record.payload,
        text=record.text,
    )


def record_from_proto(message: pb.RolloutRecord) -> RolloutRecord:
    """Raises ValueError for numbers that no rollout has: an empty message is none."""
    record = RolloutRecord(
        group_id=message.group_id,
        index=message.index,
        tokens=message.tokens,
        trained_tokens=message.trained_tokens,
        oldest_weight_version=message.oldest_weight_version,
        newest_weight_version=message.newest_weight_version,
        finish_reason=_FINISH_FROM_PROTO[message.finish_reason],
        payload=message.payload,
        text=message.text,
    )
    if not (0 < record.trained_tokens < record.tokens and record.oldest_weight_version <= record.newest_weight_version):
        raise ValueError(
            f"rollout {record.rollout_id} has {record.tokens} tokens, {record.trained_tokens} of them trained on, with the weight versions "
            f"{record.oldest_weight_version} to {record.newest_weight_version}: some tokens must be trained on and some not"
        )
    if not (record.payload and record.text):
        raise ValueError(f"rollout {record.rollout_id} names no payload: tokens {record.payload!r}, text {record.text!r}")
    return record


def verification_task_to_proto(task: VerificationTask) -> pb.VerificationTask:
    return pb.VerificationTask(rollout=record_to_proto(task.rollout), material=task.material, trace=task.trace)


def verification_task_from_proto(message: pb.VerificationTask) -> VerificationTask:
    return VerificationTask(rollout=record_from_proto(message.rollout), material=message.material, trace=message.trace)


def verified_rollout_to_proto(verified: VerifiedRollout) -> pb.VerifiedRollout:
    return pb.VerifiedRollout(
        rollout=record_to_proto(verified.rollout),
        response=outcome_to_proto(verified.outcome),
        trace=verified.trace,
        actions=verified.actions,
        keeps_action_form=verified.keeps_action_form,
    )


def verified_rollout_from_proto(message: pb.VerifiedRollout) -> VerifiedRollout:
    return VerifiedRollout(
        rollout=record_from_proto(message.rollout),
        outcome=outcome_from_proto(message.response),
        trace=message.trace,
        actions=message.actions,
        keeps_action_form=message.keeps_action_form,
    )


def event_to_proto(event: VerifiedRollout | DroppedRollout) -> pb.RolloutEvent:
    if isinstance(event, VerifiedRollout):
        return pb.RolloutEvent(verified=verified_rollout_to_proto(event))
    return pb.RolloutEvent(
        dropped=pb.DroppedRollout(group_id=event.group_id, index=event.index, reason=event.reason, response_tokens=event.response_tokens)
    )


def event_from_proto(message: pb.RolloutEvent) -> VerifiedRollout | DroppedRollout:
    if message.HasField("verified"):
        return verified_rollout_from_proto(message.verified)
    if not message.HasField("dropped"):
        raise ValueError("it holds neither a verified nor a dropped rollout")
    dropped = message.dropped
    return DroppedRollout(group_id=dropped.group_id, index=dropped.index, reason=dropped.reason, response_tokens=dropped.response_tokens)


def group_to_proto(group: VerifiedGroup) -> pb.VerifiedGroup:
    return pb.VerifiedGroup(
        group_id=group.group_id,
        rollouts=[verified_rollout_to_proto(verified) for verified in group.rollouts],
        baseline=None if group.baseline is None else verified_rollout_to_proto(group.baseline),
        trace=group.trace,
    )


def group_from_proto(message: pb.VerifiedGroup) -> VerifiedGroup:
    return VerifiedGroup(
        group_id=message.group_id,
        rollouts=tuple(verified_rollout_from_proto(verified) for verified in message.rollouts),
        baseline=verified_rollout_from_proto(message.baseline) if message.HasField("baseline") else None,
        trace=message.trace,
    )


def batch_to_proto(batch: Batch) -> pb.Batch:
    return pb.Batch(step=batch.step, groups=[group_to_proto(group) for group in batch.groups], trace=batch.trace)


def batch_from_proto(message: pb.Batch) -> Batch:
    _check_step(message.step)
    return Batch(step=message.step, groups=tuple(group_from_proto(group) for group in message.groups), trace=message.trace)


def scored_batch_to_proto(scored: ScoredBatch) -> pb.ScoredBatch:
    return pb.ScoredBatch(
        batch=batch_to_proto(scored.batch),
        process_rewards=scored.process_rewards,
        prm_version=scored.prm_version,
        metrics=dict(scored.metrics),
    )


def scored_batch_from_proto(message: pb.ScoredBatch) -> ScoredBatch:
    return ScoredBatch(
        batch=batch_from_proto(message.batch),
        process_rewards=tuple(message.process_rewards),
        prm_version=message.prm_version,
        metrics=dict(message.metrics),
    )


def committed_step_to_proto(step: CommittedStep) -> pb.CommittedStep:
    return pb.CommittedStep(step=step.step, weight_version=step.weight_version, metrics=dict(step.metrics))


def committed_step_from_proto(message: pb.CommittedStep) -> CommittedStep:
    _check_step(message.step)
    return CommittedStep(step=message.step, weight_version=message.weight_version, metrics=dict(message.metrics))


def _check_step(step: int) -> None:
    if step < 1:
        raise ValueError(f"step {step} is none: train steps count from 1")
