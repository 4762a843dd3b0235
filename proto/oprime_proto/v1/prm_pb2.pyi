from oprime_proto.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ScoreRequest(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[ScoreItem]
    def __init__(self, items: _Optional[_Iterable[_Union[ScoreItem, _Mapping]]] = ...) -> None: ...

class ScoreItem(_message.Message):
    __slots__ = ("chat", "tokens")
    CHAT_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    chat: ChatScoreInput
    tokens: TokenScoreInput
    def __init__(self, chat: _Optional[_Union[ChatScoreInput, _Mapping]] = ..., tokens: _Optional[_Union[TokenScoreInput, _Mapping]] = ...) -> None: ...

class ChatScoreInput(_message.Message):
    __slots__ = ("messages", "response")
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    messages: _containers.RepeatedCompositeFieldContainer[_common_pb2.ChatMessage]
    response: str
    def __init__(self, messages: _Optional[_Iterable[_Union[_common_pb2.ChatMessage, _Mapping]]] = ..., response: _Optional[str] = ...) -> None: ...

class TokenScoreInput(_message.Message):
    __slots__ = ("prompt_ids", "response_ids")
    PROMPT_IDS_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_IDS_FIELD_NUMBER: _ClassVar[int]
    prompt_ids: bytes
    response_ids: bytes
    def __init__(self, prompt_ids: _Optional[bytes] = ..., response_ids: _Optional[bytes] = ...) -> None: ...

class ScoreResponse(_message.Message):
    __slots__ = ("responses", "prm_version", "beta")
    RESPONSES_FIELD_NUMBER: _ClassVar[int]
    PRM_VERSION_FIELD_NUMBER: _ClassVar[int]
    BETA_FIELD_NUMBER: _ClassVar[int]
    responses: _containers.RepeatedCompositeFieldContainer[ScoredResponse]
    prm_version: int
    beta: float
    def __init__(self, responses: _Optional[_Iterable[_Union[ScoredResponse, _Mapping]]] = ..., prm_version: _Optional[int] = ..., beta: _Optional[float] = ...) -> None: ...

class ScoredResponse(_message.Message):
    __slots__ = ("response_ids", "process_rewards", "prm_logprobs", "reference_logprobs", "token_texts", "char_starts", "char_ends", "error")
    RESPONSE_IDS_FIELD_NUMBER: _ClassVar[int]
    PROCESS_REWARDS_FIELD_NUMBER: _ClassVar[int]
    PRM_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_TEXTS_FIELD_NUMBER: _ClassVar[int]
    CHAR_STARTS_FIELD_NUMBER: _ClassVar[int]
    CHAR_ENDS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    response_ids: bytes
    process_rewards: bytes
    prm_logprobs: bytes
    reference_logprobs: bytes
    token_texts: _containers.RepeatedScalarFieldContainer[str]
    char_starts: _containers.RepeatedScalarFieldContainer[int]
    char_ends: _containers.RepeatedScalarFieldContainer[int]
    error: str
    def __init__(self, response_ids: _Optional[bytes] = ..., process_rewards: _Optional[bytes] = ..., prm_logprobs: _Optional[bytes] = ..., reference_logprobs: _Optional[bytes] = ..., token_texts: _Optional[_Iterable[str]] = ..., char_starts: _Optional[_Iterable[int]] = ..., char_ends: _Optional[_Iterable[int]] = ..., error: _Optional[str] = ...) -> None: ...

class PrmServiceStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PrmServiceStatusResponse(_message.Message):
    __slots__ = ("prm_version", "step", "busy_seconds", "idle_seconds", "model", "scored_tokens")
    PRM_VERSION_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    BUSY_SECONDS_FIELD_NUMBER: _ClassVar[int]
    IDLE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SCORED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    prm_version: int
    step: int
    busy_seconds: float
    idle_seconds: float
    model: str
    scored_tokens: int
    def __init__(self, prm_version: _Optional[int] = ..., step: _Optional[int] = ..., busy_seconds: _Optional[float] = ..., idle_seconds: _Optional[float] = ..., model: _Optional[str] = ..., scored_tokens: _Optional[int] = ...) -> None: ...
