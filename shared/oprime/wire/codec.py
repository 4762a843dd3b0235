"""Core records to protobuf and back. The only place that knows both.

Queue payloads are the same messages as gRPC's, serialised: `encode(record)` and `decode_*(payload)`.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct

from oprime.core.types import (
    Batch,
    ChatMessage,
    CommittedStep,
    DroppedRollout,
    FinishReason,
    Rollout,
    SamplingSettings,
    ScoredBatch,
    Task,
    Ticket,
    TokenFloats,
    TokenIds,
    VerificationTask,
    VerifiedGroup,
    VerifiedRollout,
    WeightVersionSpan,
)
from oprime.wire.verification import outcome_from_proto, outcome_to_proto, request_from_proto, request_to_proto
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


def struct_of(values: Mapping[str, Any]) -> Struct:
    """Any JSON object. Raises ValueError for what JSON cannot hold."""
    return json_format.ParseDict(dict(values), Struct())


def messages_to_proto(messages: tuple[ChatMessage, ...]) -> list[pb.ChatMessage]:
    return [pb.ChatMessage(role=message.role, content=message.content) for message in messages]


def messages_from_proto(messages: "list[pb.ChatMessage]") -> tuple[ChatMessage, ...]:
    return tuple(ChatMessage(role=message.role, content=message.content) for message in messages)


def sampling_to_proto(sampling: SamplingSettings) -> pb.SamplingSettings:
    return pb.SamplingSettings(
        temperature=sampling.temperature, max_prompt_tokens=sampling.max_prompt_tokens, max_response_tokens=sampling.max_response_tokens
    )


def sampling_from_proto(message: pb.SamplingSettings) -> SamplingSettings:
    return SamplingSettings(
        temperature=message.temperature, max_prompt_tokens=message.max_prompt_tokens, max_response_tokens=message.max_response_tokens
    )


def ticket_to_proto(ticket: Ticket) -> pb.Ticket:
    return pb.Ticket(
        group_id=ticket.group_id,
        messages=messages_to_proto(ticket.task.messages),
        verifier=ticket.task.verifier,
        ground_truth=ticket.task.ground_truth,
        data_source=ticket.task.data_source,
        sampling=sampling_to_proto(ticket.sampling),
        seeds=ticket.seeds,
        min_weight_version=ticket.min_weight_version,
        verifier_options=struct_of(ticket.task.verifier_options),
        greedy_baseline=ticket.greedy_baseline,
    )


def ticket_from_proto(message: pb.Ticket) -> Ticket:
    return Ticket(
        group_id=message.group_id,
        task=Task(
            messages=messages_from_proto(list(message.messages)),
            verifier=message.verifier,
            ground_truth=message.ground_truth,
            data_source=message.data_source,
            verifier_options=json_format.MessageToDict(message.verifier_options),
        ),
        sampling=sampling_from_proto(message.sampling),
        seeds=tuple(message.seeds),
        min_weight_version=message.min_weight_version,
        greedy_baseline=message.greedy_baseline,
    )


def rollout_to_proto(rollout: Rollout) -> pb.Rollout:
    return pb.Rollout(
        group_id=rollout.group_id,
        index=rollout.index,
        seed=rollout.seed,
        prompt_ids=ids_to_bytes(rollout.prompt_ids),
        response_ids=ids_to_bytes(rollout.response_ids),
        text=rollout.text,
        behaviour_logprobs=floats_to_bytes(rollout.behaviour_logprobs),
        spans=[pb.WeightVersionSpan(start=span.start, end=span.end, version=span.version) for span in rollout.spans],
        finish_reason=_FINISH_TO_PROTO[rollout.finish_reason],
    )


def rollout_from_proto(message: pb.Rollout) -> Rollout:
    return Rollout(
        group_id=message.group_id,
        index=message.index,
        seed=message.seed,
        prompt_ids=ids_from_bytes(message.prompt_ids),
        response_ids=ids_from_bytes(message.response_ids),
        text=message.text,
        behaviour_logprobs=floats_from_bytes(message.behaviour_logprobs),
        spans=tuple(WeightVersionSpan(start=span.start, end=span.end, version=span.version) for span in message.spans),
        finish_reason=_FINISH_FROM_PROTO[message.finish_reason],
    )


def verification_task_to_proto(task: VerificationTask) -> pb.VerificationTask:
    return pb.VerificationTask(rollout=rollout_to_proto(task.rollout), request=request_to_proto(replace(task.request, response="")))


def verification_task_from_proto(message: pb.VerificationTask) -> VerificationTask:
    rollout = rollout_from_proto(message.rollout)
    return VerificationTask(rollout=rollout, request=replace(request_from_proto(message.request), response=rollout.text))


def verified_rollout_to_proto(verified: VerifiedRollout) -> pb.VerifiedRollout:
    return pb.VerifiedRollout(rollout=rollout_to_proto(verified.rollout), response=outcome_to_proto(verified.outcome))


def verified_rollout_from_proto(message: pb.VerifiedRollout) -> VerifiedRollout:
    return VerifiedRollout(rollout=rollout_from_proto(message.rollout), outcome=outcome_from_proto(message.response))


def event_to_proto(event: VerifiedRollout | DroppedRollout) -> pb.RolloutEvent:
    if isinstance(event, VerifiedRollout):
        return pb.RolloutEvent(verified=verified_rollout_to_proto(event))
    return pb.RolloutEvent(dropped=pb.DroppedRollout(group_id=event.group_id, index=event.index, reason=event.reason))


def event_from_proto(message: pb.RolloutEvent) -> VerifiedRollout | DroppedRollout:
    if message.HasField("verified"):
        return verified_rollout_from_proto(message.verified)
    return DroppedRollout(group_id=message.dropped.group_id, index=message.dropped.index, reason=message.dropped.reason)


def group_to_proto(group: VerifiedGroup) -> pb.VerifiedGroup:
    return pb.VerifiedGroup(
        group_id=group.group_id,
        rollouts=[verified_rollout_to_proto(verified) for verified in group.rollouts],
        baseline=None if group.baseline is None else verified_rollout_to_proto(group.baseline),
    )


def group_from_proto(message: pb.VerifiedGroup) -> VerifiedGroup:
    return VerifiedGroup(
        group_id=message.group_id,
        rollouts=tuple(verified_rollout_from_proto(verified) for verified in message.rollouts),
        baseline=verified_rollout_from_proto(message.baseline) if message.HasField("baseline") else None,
    )


def batch_to_proto(batch: Batch) -> pb.Batch:
    return pb.Batch(step=batch.step, groups=[group_to_proto(group) for group in batch.groups])


def batch_from_proto(message: pb.Batch) -> Batch:
    return Batch(step=message.step, groups=tuple(group_from_proto(group) for group in message.groups))


def scored_batch_to_proto(scored: ScoredBatch) -> pb.ScoredBatch:
    return pb.ScoredBatch(
        batch=batch_to_proto(scored.batch),
        process_rewards=[floats_to_bytes(rewards) for rewards in scored.process_rewards],
        prm_version=scored.prm_version,
        metrics=dict(scored.metrics),
        baseline_process_rewards=[floats_to_bytes(rewards) for rewards in scored.baseline_process_rewards],
    )


def scored_batch_from_proto(message: pb.ScoredBatch) -> ScoredBatch:
    return ScoredBatch(
        batch=batch_from_proto(message.batch),
        process_rewards=tuple(floats_from_bytes(rewards) for rewards in message.process_rewards),
        prm_version=message.prm_version,
        metrics=dict(message.metrics),
        baseline_process_rewards=tuple(floats_from_bytes(rewards) for rewards in message.baseline_process_rewards),
    )


def committed_step_to_proto(step: CommittedStep) -> pb.CommittedStep:
    return pb.CommittedStep(step=step.step, weight_version=step.weight_version, metrics=dict(step.metrics))


def committed_step_from_proto(message: pb.CommittedStep) -> CommittedStep:
    return CommittedStep(step=message.step, weight_version=message.weight_version, metrics=dict(message.metrics))
