from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RunState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RUN_STATE_UNSPECIFIED: _ClassVar[RunState]
    RUN_STATE_STARTING: _ClassVar[RunState]
    RUN_STATE_TRAINING: _ClassVar[RunState]
    RUN_STATE_EVALUATING: _ClassVar[RunState]
    RUN_STATE_FINISHED: _ClassVar[RunState]
    RUN_STATE_SERVING: _ClassVar[RunState]
RUN_STATE_UNSPECIFIED: RunState
RUN_STATE_STARTING: RunState
RUN_STATE_TRAINING: RunState
RUN_STATE_EVALUATING: RunState
RUN_STATE_FINISHED: RunState
RUN_STATE_SERVING: RunState

class CoordinatorServiceStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CoordinatorServiceStatusResponse(_message.Message):
    __slots__ = ("state", "step", "total_steps", "cut_batches", "live_groups", "ready_groups", "acceptance_rate", "ledger", "queues", "metrics", "bottleneck", "stalled")
    class LedgerEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    STATE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    TOTAL_STEPS_FIELD_NUMBER: _ClassVar[int]
    CUT_BATCHES_FIELD_NUMBER: _ClassVar[int]
    LIVE_GROUPS_FIELD_NUMBER: _ClassVar[int]
    READY_GROUPS_FIELD_NUMBER: _ClassVar[int]
    ACCEPTANCE_RATE_FIELD_NUMBER: _ClassVar[int]
    LEDGER_FIELD_NUMBER: _ClassVar[int]
    QUEUES_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    BOTTLENECK_FIELD_NUMBER: _ClassVar[int]
    STALLED_FIELD_NUMBER: _ClassVar[int]
    state: RunState
    step: int
    total_steps: int
    cut_batches: int
    live_groups: int
    ready_groups: int
    acceptance_rate: float
    ledger: _containers.ScalarMap[str, int]
    queues: _containers.RepeatedCompositeFieldContainer[QueueDepth]
    metrics: _containers.ScalarMap[str, float]
    bottleneck: str
    stalled: str
    def __init__(self, state: _Optional[_Union[RunState, str]] = ..., step: _Optional[int] = ..., total_steps: _Optional[int] = ..., cut_batches: _Optional[int] = ..., live_groups: _Optional[int] = ..., ready_groups: _Optional[int] = ..., acceptance_rate: _Optional[float] = ..., ledger: _Optional[_Mapping[str, int]] = ..., queues: _Optional[_Iterable[_Union[QueueDepth, _Mapping]]] = ..., metrics: _Optional[_Mapping[str, float]] = ..., bottleneck: _Optional[str] = ..., stalled: _Optional[str] = ...) -> None: ...

class QueueDepth(_message.Message):
    __slots__ = ("stream", "waiting", "pending", "oldest_seconds")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    OLDEST_SECONDS_FIELD_NUMBER: _ClassVar[int]
    stream: str
    waiting: int
    pending: int
    oldest_seconds: float
    def __init__(self, stream: _Optional[str] = ..., waiting: _Optional[int] = ..., pending: _Optional[int] = ..., oldest_seconds: _Optional[float] = ...) -> None: ...
