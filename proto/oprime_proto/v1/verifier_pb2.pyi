from google.protobuf import struct_pb2 as _struct_pb2
from oprime_proto.v1 import verification_pb2 as _verification_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class VerifyBatchRequest(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[_verification_pb2.VerifyRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[_verification_pb2.VerifyRequest, _Mapping]]] = ...) -> None: ...

class VerifyBatchResponse(_message.Message):
    __slots__ = ("responses",)
    RESPONSES_FIELD_NUMBER: _ClassVar[int]
    responses: _containers.RepeatedCompositeFieldContainer[_verification_pb2.VerifyResponse]
    def __init__(self, responses: _Optional[_Iterable[_Union[_verification_pb2.VerifyResponse, _Mapping]]] = ...) -> None: ...

class DescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DescribeResponse(_message.Message):
    __slots__ = ("verifiers", "concurrency", "deadline_s", "max_response_chars")
    VERIFIERS_FIELD_NUMBER: _ClassVar[int]
    CONCURRENCY_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_S_FIELD_NUMBER: _ClassVar[int]
    MAX_RESPONSE_CHARS_FIELD_NUMBER: _ClassVar[int]
    verifiers: _containers.RepeatedCompositeFieldContainer[VerifierDescription]
    concurrency: int
    deadline_s: float
    max_response_chars: int
    def __init__(self, verifiers: _Optional[_Iterable[_Union[VerifierDescription, _Mapping]]] = ..., concurrency: _Optional[int] = ..., deadline_s: _Optional[float] = ..., max_response_chars: _Optional[int] = ...) -> None: ...

class VerifierDescription(_message.Message):
    __slots__ = ("name", "version", "description", "options_schema", "problem")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    description: str
    options_schema: _struct_pb2.Struct
    problem: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., description: _Optional[str] = ..., options_schema: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., problem: _Optional[str] = ...) -> None: ...

class VerifierServiceHealthRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class VerifierServiceHealthResponse(_message.Message):
    __slots__ = ("serving", "reason", "sandbox", "held_rollouts", "outage")
    SERVING_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SANDBOX_FIELD_NUMBER: _ClassVar[int]
    HELD_ROLLOUTS_FIELD_NUMBER: _ClassVar[int]
    OUTAGE_FIELD_NUMBER: _ClassVar[int]
    serving: bool
    reason: str
    sandbox: SandboxReport
    held_rollouts: int
    outage: str
    def __init__(self, serving: _Optional[bool] = ..., reason: _Optional[str] = ..., sandbox: _Optional[_Union[SandboxReport, _Mapping]] = ..., held_rollouts: _Optional[int] = ..., outage: _Optional[str] = ...) -> None: ...

class SandboxReport(_message.Message):
    __slots__ = ("profile", "layers", "probes", "strict", "checked_at")
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    PROBES_FIELD_NUMBER: _ClassVar[int]
    STRICT_FIELD_NUMBER: _ClassVar[int]
    CHECKED_AT_FIELD_NUMBER: _ClassVar[int]
    profile: str
    layers: _containers.RepeatedCompositeFieldContainer[SandboxLayer]
    probes: _containers.RepeatedCompositeFieldContainer[SandboxProbe]
    strict: bool
    checked_at: float
    def __init__(self, profile: _Optional[str] = ..., layers: _Optional[_Iterable[_Union[SandboxLayer, _Mapping]]] = ..., probes: _Optional[_Iterable[_Union[SandboxProbe, _Mapping]]] = ..., strict: _Optional[bool] = ..., checked_at: _Optional[float] = ...) -> None: ...

class SandboxLayer(_message.Message):
    __slots__ = ("name", "active", "detail")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    name: str
    active: bool
    detail: str
    def __init__(self, name: _Optional[str] = ..., active: _Optional[bool] = ..., detail: _Optional[str] = ...) -> None: ...

class SandboxProbe(_message.Message):
    __slots__ = ("name", "blocked", "detail")
    NAME_FIELD_NUMBER: _ClassVar[int]
    BLOCKED_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    name: str
    blocked: bool
    detail: str
    def __init__(self, name: _Optional[str] = ..., blocked: _Optional[bool] = ..., detail: _Optional[str] = ...) -> None: ...
