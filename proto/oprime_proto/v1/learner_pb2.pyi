from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class LearnerServiceStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LearnerServiceStatusResponse(_message.Message):
    __slots__ = ("step", "weight_version", "busy_seconds", "idle_seconds", "trained_tokens")
    STEP_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_VERSION_FIELD_NUMBER: _ClassVar[int]
    BUSY_SECONDS_FIELD_NUMBER: _ClassVar[int]
    IDLE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    TRAINED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    step: int
    weight_version: int
    busy_seconds: float
    idle_seconds: float
    trained_tokens: int
    def __init__(self, step: _Optional[int] = ..., weight_version: _Optional[int] = ..., busy_seconds: _Optional[float] = ..., idle_seconds: _Optional[float] = ..., trained_tokens: _Optional[int] = ...) -> None: ...
