from oprime_proto.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Truncation(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TRUNCATION_UNSPECIFIED: _ClassVar[Truncation]
    TRUNCATION_LEFT: _ClassVar[Truncation]
    TRUNCATION_RIGHT: _ClassVar[Truncation]
TRUNCATION_UNSPECIFIED: Truncation
TRUNCATION_LEFT: Truncation
TRUNCATION_RIGHT: Truncation

class ScoreRequest(_message.Message):
    __slots__ = ("items", "prm_version")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    PRM_VERSION_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[ScoreItem]
    prm_version: int
    def __init__(self, items: _Optional[_Iterable[_Union[ScoreItem, _Mapping]]] = ..., prm_version: _Optional[int] = ...) -> None: ...

class ScoreItem(_message.Message):
    __slots__ = ("chat", "tokens", "text", "truncation", "max_tokens")
    CHAT_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TRUNCATION_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    chat: ChatScoreInput
    tokens: TokenScoreInput
    text: TextScoreInput
    truncation: Truncation
    max_tokens: int
    def __init__(self, chat: _Optional[_Union[ChatScoreInput, _Mapping]] = ..., tokens: _Optional[_Union[TokenScoreInput, _Mapping]] = ..., text: _Optional[_Union[TextScoreInput, _Mapping]] = ..., truncation: _Optional[_Union[Truncation, str]] = ..., max_tokens: _Optional[int] = ...) -> None: ...

class ChatScoreInput(_message.Message):
    __slots__ = ("messages", "response", "special_tokens")
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    SPECIAL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    messages: _containers.RepeatedCompositeFieldContainer[_common_pb2.ChatMessage]
    response: str
    special_tokens: bool
    def __init__(self, messages: _Optional[_Iterable[_Union[_common_pb2.ChatMessage, _Mapping]]] = ..., response: _Optional[str] = ..., special_tokens: _Optional[bool] = ...) -> None: ...

class TextScoreInput(_message.Message):
    __slots__ = ("prompt", "response")
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    prompt: str
    response: str
    def __init__(self, prompt: _Optional[str] = ..., response: _Optional[str] = ...) -> None: ...

class TokenScoreInput(_message.Message):
    __slots__ = ("prompt_ids", "response_ids")
    PROMPT_IDS_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_IDS_FIELD_NUMBER: _ClassVar[int]
    prompt_ids: bytes
    response_ids: bytes
    def __init__(self, prompt_ids: _Optional[bytes] = ..., response_ids: _Optional[bytes] = ...) -> None: ...

class ScoreResponse(_message.Message):
    __slots__ = ("responses", "prm_version", "beta", "reference_model")
    RESPONSES_FIELD_NUMBER: _ClassVar[int]
    PRM_VERSION_FIELD_NUMBER: _ClassVar[int]
    BETA_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_MODEL_FIELD_NUMBER: _ClassVar[int]
    responses: _containers.RepeatedCompositeFieldContainer[ScoredResponse]
    prm_version: int
    beta: float
    reference_model: str
    def __init__(self, responses: _Optional[_Iterable[_Union[ScoredResponse, _Mapping]]] = ..., prm_version: _Optional[int] = ..., beta: _Optional[float] = ..., reference_model: _Optional[str] = ...) -> None: ...

class ScoredResponse(_message.Message):
    __slots__ = ("response_ids", "process_rewards", "prm_logprobs", "reference_logprobs", "token_texts", "char_starts", "char_ends", "error", "prompt_tokens", "has_end_token", "dropped_prompt_tokens", "dropped_response_tokens", "trailing_tokens")
    RESPONSE_IDS_FIELD_NUMBER: _ClassVar[int]
    PROCESS_REWARDS_FIELD_NUMBER: _ClassVar[int]
    PRM_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_TEXTS_FIELD_NUMBER: _ClassVar[int]
    CHAR_STARTS_FIELD_NUMBER: _ClassVar[int]
    CHAR_ENDS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    HAS_END_TOKEN_FIELD_NUMBER: _ClassVar[int]
    DROPPED_PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    DROPPED_RESPONSE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TRAILING_TOKENS_FIELD_NUMBER: _ClassVar[int]
    response_ids: bytes
    process_rewards: bytes
    prm_logprobs: bytes
    reference_logprobs: bytes
    token_texts: _containers.RepeatedScalarFieldContainer[str]
    char_starts: _containers.RepeatedScalarFieldContainer[int]
    char_ends: _containers.RepeatedScalarFieldContainer[int]
    error: str
    prompt_tokens: int
    has_end_token: bool
    dropped_prompt_tokens: int
    dropped_response_tokens: int
    trailing_tokens: int
    def __init__(self, response_ids: _Optional[bytes] = ..., process_rewards: _Optional[bytes] = ..., prm_logprobs: _Optional[bytes] = ..., reference_logprobs: _Optional[bytes] = ..., token_texts: _Optional[_Iterable[str]] = ..., char_starts: _Optional[_Iterable[int]] = ..., char_ends: _Optional[_Iterable[int]] = ..., error: _Optional[str] = ..., prompt_tokens: _Optional[int] = ..., has_end_token: _Optional[bool] = ..., dropped_prompt_tokens: _Optional[int] = ..., dropped_response_tokens: _Optional[int] = ..., trailing_tokens: _Optional[int] = ...) -> None: ...

class PrmServiceStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PrmServiceStatusResponse(_message.Message):
    __slots__ = ("prm_version", "step", "busy_seconds", "idle_seconds", "model", "scored_tokens", "reference_model", "versions", "waiting_tokens")
    PRM_VERSION_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    BUSY_SECONDS_FIELD_NUMBER: _ClassVar[int]
    IDLE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SCORED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    WAITING_TOKENS_FIELD_NUMBER: _ClassVar[int]
    prm_version: int
    step: int
    busy_seconds: float
    idle_seconds: float
    model: str
    scored_tokens: int
    reference_model: str
    versions: _containers.RepeatedScalarFieldContainer[int]
    waiting_tokens: int
    def __init__(self, prm_version: _Optional[int] = ..., step: _Optional[int] = ..., busy_seconds: _Optional[float] = ..., idle_seconds: _Optional[float] = ..., model: _Optional[str] = ..., scored_tokens: _Optional[int] = ..., reference_model: _Optional[str] = ..., versions: _Optional[_Iterable[int]] = ..., waiting_tokens: _Optional[int] = ...) -> None: ...
