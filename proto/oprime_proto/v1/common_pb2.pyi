from google.protobuf import struct_pb2 as _struct_pb2
from oprime_proto.v1 import verification_pb2 as _verification_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FinishReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FINISH_REASON_UNSPECIFIED: _ClassVar[FinishReason]
    FINISH_REASON_STOP: _ClassVar[FinishReason]
    FINISH_REASON_LENGTH: _ClassVar[FinishReason]
FINISH_REASON_UNSPECIFIED: FinishReason
FINISH_REASON_STOP: FinishReason
FINISH_REASON_LENGTH: FinishReason

class ChatMessage(_message.Message):
    __slots__ = ("role", "content")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    role: str
    content: str
    def __init__(self, role: _Optional[str] = ..., content: _Optional[str] = ...) -> None: ...

class SamplingSettings(_message.Message):
    __slots__ = ("temperature", "max_prompt_tokens", "max_response_tokens")
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    MAX_PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_RESPONSE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    max_prompt_tokens: int
    max_response_tokens: int
    def __init__(self, temperature: _Optional[float] = ..., max_prompt_tokens: _Optional[int] = ..., max_response_tokens: _Optional[int] = ...) -> None: ...

class Ticket(_message.Message):
    __slots__ = ("group_id", "messages", "verifier", "ground_truth", "data_source", "sampling", "seeds", "min_weight_version", "verifier_options", "greedy_baseline")
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    VERIFIER_FIELD_NUMBER: _ClassVar[int]
    GROUND_TRUTH_FIELD_NUMBER: _ClassVar[int]
    DATA_SOURCE_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    SEEDS_FIELD_NUMBER: _ClassVar[int]
    MIN_WEIGHT_VERSION_FIELD_NUMBER: _ClassVar[int]
    VERIFIER_OPTIONS_FIELD_NUMBER: _ClassVar[int]
    GREEDY_BASELINE_FIELD_NUMBER: _ClassVar[int]
    group_id: int
    messages: _containers.RepeatedCompositeFieldContainer[ChatMessage]
    verifier: str
    ground_truth: str
    data_source: str
    sampling: SamplingSettings
    seeds: _containers.RepeatedScalarFieldContainer[int]
    min_weight_version: int
    verifier_options: _struct_pb2.Struct
    greedy_baseline: bool
    def __init__(self, group_id: _Optional[int] = ..., messages: _Optional[_Iterable[_Union[ChatMessage, _Mapping]]] = ..., verifier: _Optional[str] = ..., ground_truth: _Optional[str] = ..., data_source: _Optional[str] = ..., sampling: _Optional[_Union[SamplingSettings, _Mapping]] = ..., seeds: _Optional[_Iterable[int]] = ..., min_weight_version: _Optional[int] = ..., verifier_options: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., greedy_baseline: _Optional[bool] = ...) -> None: ...

class WeightVersionSpan(_message.Message):
    __slots__ = ("start", "end", "version")
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    start: int
    end: int
    version: int
    def __init__(self, start: _Optional[int] = ..., end: _Optional[int] = ..., version: _Optional[int] = ...) -> None: ...

class Rollout(_message.Message):
    __slots__ = ("group_id", "index", "seed", "prompt_ids", "response_ids", "text", "behaviour_logprobs", "spans", "finish_reason")
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    PROMPT_IDS_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_IDS_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    BEHAVIOUR_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    SPANS_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    group_id: int
    index: int
    seed: int
    prompt_ids: bytes
    response_ids: bytes
    text: str
    behaviour_logprobs: bytes
    spans: _containers.RepeatedCompositeFieldContainer[WeightVersionSpan]
    finish_reason: FinishReason
    def __init__(self, group_id: _Optional[int] = ..., index: _Optional[int] = ..., seed: _Optional[int] = ..., prompt_ids: _Optional[bytes] = ..., response_ids: _Optional[bytes] = ..., text: _Optional[str] = ..., behaviour_logprobs: _Optional[bytes] = ..., spans: _Optional[_Iterable[_Union[WeightVersionSpan, _Mapping]]] = ..., finish_reason: _Optional[_Union[FinishReason, str]] = ...) -> None: ...

class VerificationTask(_message.Message):
    __slots__ = ("rollout", "request")
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    rollout: Rollout
    request: _verification_pb2.VerifyRequest
    def __init__(self, rollout: _Optional[_Union[Rollout, _Mapping]] = ..., request: _Optional[_Union[_verification_pb2.VerifyRequest, _Mapping]] = ...) -> None: ...

class VerifiedRollout(_message.Message):
    __slots__ = ("rollout", "response")
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    rollout: Rollout
    response: _verification_pb2.VerifyResponse
    def __init__(self, rollout: _Optional[_Union[Rollout, _Mapping]] = ..., response: _Optional[_Union[_verification_pb2.VerifyResponse, _Mapping]] = ...) -> None: ...

class RolloutEvent(_message.Message):
    __slots__ = ("verified", "dropped")
    VERIFIED_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    verified: VerifiedRollout
    dropped: DroppedRollout
    def __init__(self, verified: _Optional[_Union[VerifiedRollout, _Mapping]] = ..., dropped: _Optional[_Union[DroppedRollout, _Mapping]] = ...) -> None: ...

class DroppedRollout(_message.Message):
    __slots__ = ("group_id", "index", "reason")
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    group_id: int
    index: int
    reason: str
    def __init__(self, group_id: _Optional[int] = ..., index: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class VerifiedGroup(_message.Message):
    __slots__ = ("group_id", "rollouts", "baseline")
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    ROLLOUTS_FIELD_NUMBER: _ClassVar[int]
    BASELINE_FIELD_NUMBER: _ClassVar[int]
    group_id: int
    rollouts: _containers.RepeatedCompositeFieldContainer[VerifiedRollout]
    baseline: VerifiedRollout
    def __init__(self, group_id: _Optional[int] = ..., rollouts: _Optional[_Iterable[_Union[VerifiedRollout, _Mapping]]] = ..., baseline: _Optional[_Union[VerifiedRollout, _Mapping]] = ...) -> None: ...

class Batch(_message.Message):
    __slots__ = ("step", "groups")
    STEP_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    step: int
    groups: _containers.RepeatedCompositeFieldContainer[VerifiedGroup]
    def __init__(self, step: _Optional[int] = ..., groups: _Optional[_Iterable[_Union[VerifiedGroup, _Mapping]]] = ...) -> None: ...

class ScoredBatch(_message.Message):
    __slots__ = ("batch", "process_rewards", "prm_version", "metrics", "baseline_process_rewards")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    BATCH_FIELD_NUMBER: _ClassVar[int]
    PROCESS_REWARDS_FIELD_NUMBER: _ClassVar[int]
    PRM_VERSION_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    BASELINE_PROCESS_REWARDS_FIELD_NUMBER: _ClassVar[int]
    batch: Batch
    process_rewards: _containers.RepeatedScalarFieldContainer[bytes]
    prm_version: int
    metrics: _containers.ScalarMap[str, float]
    baseline_process_rewards: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, batch: _Optional[_Union[Batch, _Mapping]] = ..., process_rewards: _Optional[_Iterable[bytes]] = ..., prm_version: _Optional[int] = ..., metrics: _Optional[_Mapping[str, float]] = ..., baseline_process_rewards: _Optional[_Iterable[bytes]] = ...) -> None: ...

class CommittedStep(_message.Message):
    __slots__ = ("step", "weight_version", "metrics")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    STEP_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_VERSION_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    step: int
    weight_version: int
    metrics: _containers.ScalarMap[str, float]
    def __init__(self, step: _Optional[int] = ..., weight_version: _Optional[int] = ..., metrics: _Optional[_Mapping[str, float]] = ...) -> None: ...
