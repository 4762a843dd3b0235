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
    __slots__ = ("temperature", "max_prompt_tokens", "max_response_tokens", "top_p")
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    MAX_PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_RESPONSE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    max_prompt_tokens: int
    max_response_tokens: int
    top_p: float
    def __init__(self, temperature: _Optional[float] = ..., max_prompt_tokens: _Optional[int] = ..., max_response_tokens: _Optional[int] = ..., top_p: _Optional[float] = ...) -> None: ...

class Ticket(_message.Message):
    __slots__ = ("group_id", "messages", "sampling", "seeds", "min_weight_version", "greedy_baseline", "material", "trace")
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    SEEDS_FIELD_NUMBER: _ClassVar[int]
    MIN_WEIGHT_VERSION_FIELD_NUMBER: _ClassVar[int]
    GREEDY_BASELINE_FIELD_NUMBER: _ClassVar[int]
    MATERIAL_FIELD_NUMBER: _ClassVar[int]
    TRACE_FIELD_NUMBER: _ClassVar[int]
    group_id: int
    messages: _containers.RepeatedCompositeFieldContainer[ChatMessage]
    sampling: SamplingSettings
    seeds: _containers.RepeatedScalarFieldContainer[int]
    min_weight_version: int
    greedy_baseline: bool
    material: str
    trace: str
    def __init__(self, group_id: _Optional[int] = ..., messages: _Optional[_Iterable[_Union[ChatMessage, _Mapping]]] = ..., sampling: _Optional[_Union[SamplingSettings, _Mapping]] = ..., seeds: _Optional[_Iterable[int]] = ..., min_weight_version: _Optional[int] = ..., greedy_baseline: _Optional[bool] = ..., material: _Optional[str] = ..., trace: _Optional[str] = ...) -> None: ...

class Segment(_message.Message):
    __slots__ = ("token_ids", "trained", "logprobs", "weight_version")
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    TRAINED_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_VERSION_FIELD_NUMBER: _ClassVar[int]
    token_ids: bytes
    trained: bool
    logprobs: bytes
    weight_version: int
    def __init__(self, token_ids: _Optional[bytes] = ..., trained: _Optional[bool] = ..., logprobs: _Optional[bytes] = ..., weight_version: _Optional[int] = ...) -> None: ...

class Rollout(_message.Message):
    __slots__ = ("group_id", "index", "seed", "text", "finish_reason", "segments")
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    group_id: int
    index: int
    seed: int
    text: str
    finish_reason: FinishReason
    segments: _containers.RepeatedCompositeFieldContainer[Segment]
    def __init__(self, group_id: _Optional[int] = ..., index: _Optional[int] = ..., seed: _Optional[int] = ..., text: _Optional[str] = ..., finish_reason: _Optional[_Union[FinishReason, str]] = ..., segments: _Optional[_Iterable[_Union[Segment, _Mapping]]] = ...) -> None: ...

class RolloutRecord(_message.Message):
    __slots__ = ("group_id", "index", "tokens", "trained_tokens", "oldest_weight_version", "newest_weight_version", "finish_reason", "payload", "text")
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    TRAINED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OLDEST_WEIGHT_VERSION_FIELD_NUMBER: _ClassVar[int]
    NEWEST_WEIGHT_VERSION_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    group_id: int
    index: int
    tokens: int
    trained_tokens: int
    oldest_weight_version: int
    newest_weight_version: int
    finish_reason: FinishReason
    payload: str
    text: str
    def __init__(self, group_id: _Optional[int] = ..., index: _Optional[int] = ..., tokens: _Optional[int] = ..., trained_tokens: _Optional[int] = ..., oldest_weight_version: _Optional[int] = ..., newest_weight_version: _Optional[int] = ..., finish_reason: _Optional[_Union[FinishReason, str]] = ..., payload: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

class VerificationTask(_message.Message):
    __slots__ = ("rollout", "material", "trace")
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    MATERIAL_FIELD_NUMBER: _ClassVar[int]
    TRACE_FIELD_NUMBER: _ClassVar[int]
    rollout: RolloutRecord
    material: str
    trace: str
    def __init__(self, rollout: _Optional[_Union[RolloutRecord, _Mapping]] = ..., material: _Optional[str] = ..., trace: _Optional[str] = ...) -> None: ...

class VerifiedRollout(_message.Message):
    __slots__ = ("rollout", "response", "trace", "actions", "keeps_action_form")
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    TRACE_FIELD_NUMBER: _ClassVar[int]
    ACTIONS_FIELD_NUMBER: _ClassVar[int]
    KEEPS_ACTION_FORM_FIELD_NUMBER: _ClassVar[int]
    rollout: RolloutRecord
    response: _verification_pb2.VerifyResponse
    trace: str
    actions: int
    keeps_action_form: bool
    def __init__(self, rollout: _Optional[_Union[RolloutRecord, _Mapping]] = ..., response: _Optional[_Union[_verification_pb2.VerifyResponse, _Mapping]] = ..., trace: _Optional[str] = ..., actions: _Optional[int] = ..., keeps_action_form: _Optional[bool] = ...) -> None: ...

class RolloutEvent(_message.Message):
    __slots__ = ("verified", "dropped")
    VERIFIED_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    verified: VerifiedRollout
    dropped: DroppedRollout
    def __init__(self, verified: _Optional[_Union[VerifiedRollout, _Mapping]] = ..., dropped: _Optional[_Union[DroppedRollout, _Mapping]] = ...) -> None: ...

class DroppedRollout(_message.Message):
    __slots__ = ("group_id", "index", "reason", "response_tokens")
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    group_id: int
    index: int
    reason: str
    response_tokens: int
    def __init__(self, group_id: _Optional[int] = ..., index: _Optional[int] = ..., reason: _Optional[str] = ..., response_tokens: _Optional[int] = ...) -> None: ...

class VerifiedGroup(_message.Message):
    __slots__ = ("group_id", "rollouts", "baseline", "trace")
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    ROLLOUTS_FIELD_NUMBER: _ClassVar[int]
    BASELINE_FIELD_NUMBER: _ClassVar[int]
    TRACE_FIELD_NUMBER: _ClassVar[int]
    group_id: int
    rollouts: _containers.RepeatedCompositeFieldContainer[VerifiedRollout]
    baseline: VerifiedRollout
    trace: str
    def __init__(self, group_id: _Optional[int] = ..., rollouts: _Optional[_Iterable[_Union[VerifiedRollout, _Mapping]]] = ..., baseline: _Optional[_Union[VerifiedRollout, _Mapping]] = ..., trace: _Optional[str] = ...) -> None: ...

class Batch(_message.Message):
    __slots__ = ("step", "groups", "trace")
    STEP_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    TRACE_FIELD_NUMBER: _ClassVar[int]
    step: int
    groups: _containers.RepeatedCompositeFieldContainer[VerifiedGroup]
    trace: str
    def __init__(self, step: _Optional[int] = ..., groups: _Optional[_Iterable[_Union[VerifiedGroup, _Mapping]]] = ..., trace: _Optional[str] = ...) -> None: ...

class ScoredBatch(_message.Message):
    __slots__ = ("batch", "prm_version", "metrics", "process_rewards")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    BATCH_FIELD_NUMBER: _ClassVar[int]
    PRM_VERSION_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    PROCESS_REWARDS_FIELD_NUMBER: _ClassVar[int]
    batch: Batch
    prm_version: int
    metrics: _containers.ScalarMap[str, float]
    process_rewards: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, batch: _Optional[_Union[Batch, _Mapping]] = ..., prm_version: _Optional[int] = ..., metrics: _Optional[_Mapping[str, float]] = ..., process_rewards: _Optional[_Iterable[str]] = ...) -> None: ...

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
