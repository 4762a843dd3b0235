from oprime_proto.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PrepareRequest(_message.Message):
    __slots__ = ("weight_version",)
    WEIGHT_VERSION_FIELD_NUMBER: _ClassVar[int]
    weight_version: int
    def __init__(self, weight_version: _Optional[int] = ...) -> None: ...

class PrepareResponse(_message.Message):
    __slots__ = ("weight_version", "bytes", "seconds")
    WEIGHT_VERSION_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    weight_version: int
    bytes: int
    seconds: float
    def __init__(self, weight_version: _Optional[int] = ..., bytes: _Optional[int] = ..., seconds: _Optional[float] = ...) -> None: ...

class ActivateRequest(_message.Message):
    __slots__ = ("weight_version",)
    WEIGHT_VERSION_FIELD_NUMBER: _ClassVar[int]
    weight_version: int
    def __init__(self, weight_version: _Optional[int] = ...) -> None: ...

class ActivateResponse(_message.Message):
    __slots__ = ("weight_version", "seconds")
    WEIGHT_VERSION_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    weight_version: int
    seconds: float
    def __init__(self, weight_version: _Optional[int] = ..., seconds: _Optional[float] = ...) -> None: ...

class GenerateRequest(_message.Message):
    __slots__ = ("messages", "sampling", "seeds", "min_weight_version")
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    SEEDS_FIELD_NUMBER: _ClassVar[int]
    MIN_WEIGHT_VERSION_FIELD_NUMBER: _ClassVar[int]
    messages: _containers.RepeatedCompositeFieldContainer[_common_pb2.ChatMessage]
    sampling: _common_pb2.SamplingSettings
    seeds: _containers.RepeatedScalarFieldContainer[int]
    min_weight_version: int
    def __init__(self, messages: _Optional[_Iterable[_Union[_common_pb2.ChatMessage, _Mapping]]] = ..., sampling: _Optional[_Union[_common_pb2.SamplingSettings, _Mapping]] = ..., seeds: _Optional[_Iterable[int]] = ..., min_weight_version: _Optional[int] = ...) -> None: ...

class GenerateResponse(_message.Message):
    __slots__ = ("rollouts",)
    ROLLOUTS_FIELD_NUMBER: _ClassVar[int]
    rollouts: _containers.RepeatedCompositeFieldContainer[_common_pb2.Rollout]
    def __init__(self, rollouts: _Optional[_Iterable[_Union[_common_pb2.Rollout, _Mapping]]] = ...) -> None: ...

class GenerateStreamRequest(_message.Message):
    __slots__ = ("messages", "sampling", "seeds", "min_weight_version")
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    SEEDS_FIELD_NUMBER: _ClassVar[int]
    MIN_WEIGHT_VERSION_FIELD_NUMBER: _ClassVar[int]
    messages: _containers.RepeatedCompositeFieldContainer[_common_pb2.ChatMessage]
    sampling: _common_pb2.SamplingSettings
    seeds: _containers.RepeatedScalarFieldContainer[int]
    min_weight_version: int
    def __init__(self, messages: _Optional[_Iterable[_Union[_common_pb2.ChatMessage, _Mapping]]] = ..., sampling: _Optional[_Union[_common_pb2.SamplingSettings, _Mapping]] = ..., seeds: _Optional[_Iterable[int]] = ..., min_weight_version: _Optional[int] = ...) -> None: ...

class GenerateStreamResponse(_message.Message):
    __slots__ = ("delta", "finished")
    DELTA_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    delta: ResponseDelta
    finished: _common_pb2.Rollout
    def __init__(self, delta: _Optional[_Union[ResponseDelta, _Mapping]] = ..., finished: _Optional[_Union[_common_pb2.Rollout, _Mapping]] = ...) -> None: ...

class ResponseDelta(_message.Message):
    __slots__ = ("index", "response_ids", "text", "behaviour_logprobs")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_IDS_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    BEHAVIOUR_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    index: int
    response_ids: bytes
    text: str
    behaviour_logprobs: bytes
    def __init__(self, index: _Optional[int] = ..., response_ids: _Optional[bytes] = ..., text: _Optional[str] = ..., behaviour_logprobs: _Optional[bytes] = ...) -> None: ...

class StatsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatsResponse(_message.Message):
    __slots__ = ("generator_id", "weight_version", "running_rollouts", "finished_rollouts", "generated_tokens", "busy_seconds", "idle_seconds", "follow_error", "backend")
    GENERATOR_ID_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_VERSION_FIELD_NUMBER: _ClassVar[int]
    RUNNING_ROLLOUTS_FIELD_NUMBER: _ClassVar[int]
    FINISHED_ROLLOUTS_FIELD_NUMBER: _ClassVar[int]
    GENERATED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    BUSY_SECONDS_FIELD_NUMBER: _ClassVar[int]
    IDLE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_ERROR_FIELD_NUMBER: _ClassVar[int]
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    generator_id: str
    weight_version: int
    running_rollouts: int
    finished_rollouts: int
    generated_tokens: int
    busy_seconds: float
    idle_seconds: float
    follow_error: str
    backend: str
    def __init__(self, generator_id: _Optional[str] = ..., weight_version: _Optional[int] = ..., running_rollouts: _Optional[int] = ..., finished_rollouts: _Optional[int] = ..., generated_tokens: _Optional[int] = ..., busy_seconds: _Optional[float] = ..., idle_seconds: _Optional[float] = ..., follow_error: _Optional[str] = ..., backend: _Optional[str] = ...) -> None: ...
