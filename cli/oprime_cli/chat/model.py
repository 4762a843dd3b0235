"""A model that answers conversations, wherever it is: behind an endpoint (`endpoint.py`) or on this machine (`local.py`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from oprime.core.types import ChatMessage
from oprime.runtime.errors import OprimeError


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """One response that is wanted."""

    messages: Sequence[ChatMessage]
    temperature: float = 1.0
    """0 takes the most probable token each time."""
    top_p: float = 1.0
    max_tokens: int = 4096
    """Longest response."""
    stop: Sequence[str] = ()
    """Texts that end a response; they are no part of it."""
    seed: int = 0
    """Different seeds give different responses to the same messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatResponse:
    text: str
    cut: bool
    """Whether it ended at max_tokens."""
    prompt_tokens: int = 0
    response_tokens: int = 0


@dataclass(slots=True)
class Usage:
    """What a model was asked so far, all its conversations together."""

    responses: int = 0
    repeated: int = 0
    """Requests that had to be made again."""
    prompt_tokens: int = 0
    response_tokens: int = 0

    def add(self, response: ChatResponse) -> None:
        self.responses += 1
        self.prompt_tokens += response.prompt_tokens
        self.response_tokens += response.response_tokens


class ChatRefusedError(OprimeError):
    """The model cannot answer this request, however often it is asked; others may go well."""


class ChatUnavailableError(OprimeError):
    """The model answers no request."""


class ChatModel(Protocol):
    """Several requests may be under way; the model takes as many at a time as it should."""

    @property
    def usage(self) -> Usage: ...

    async def respond(self, request: ChatRequest) -> ChatResponse:
        """Raises ChatRefusedError for this request alone, ChatUnavailableError when no other would go better."""
        ...

    async def close(self) -> None: ...
