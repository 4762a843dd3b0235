"""What is sent to a gateway. docs/api.md and /openapi.json say what each field means."""

from collections.abc import Sequence
from typing import Any, Literal, NotRequired, TypedDict

ReductionName = Literal[
    "sum",
    "mean",
    "min",
    "max",
    "last",
    "prod",
    "discounted_sum",
    "discounted_mean",
    "sum_per_token",
    "sum_per_root_token",
]


class TextInput(TypedDict):
    """The text of one user message, and of a response to it."""

    id: NotRequired[str | None]
    prompt: str
    response: str
    raw: NotRequired[bool | None]
    """Whether both are text as the model reads it, templates and special tokens included."""


class ChatInput(TypedDict):
    """A conversation whose last message, the assistant's, is scored."""

    id: NotRequired[str | None]
    messages: Sequence[dict[str, Any]]


class TokenInput(TypedDict):
    """Token ids in the PRM's own vocabulary."""

    id: NotRequired[str | None]
    prompt_token_ids: Sequence[int]
    response_token_ids: Sequence[int]


RewardInput = TextInput | ChatInput | TokenInput


class Steps(TypedDict, total=False):
    mode: Literal["delimiter", "char_spans", "token_spans", "none"]
    delimiter: str
    spans: Sequence[Sequence[Sequence[int]]]


class ScoringOptions(TypedDict, total=False):
    model: str
    steps: Steps
    step_reduction: ReductionName
    sequence_reduction: ReductionName
    discount: float
    end_token: Literal["include", "exclude"]
    truncation: Literal["error", "left", "right"]
    special_tokens: bool


class Options(ScoringOptions, total=False):
    granularity: Sequence[Literal["token", "step", "sequence"]]
    include: Sequence[Literal["tokens", "offsets", "logprobs", "ref_logprobs"]]
    encoding_format: Literal["float", "base64"]
    """How numbers travel: `base64`, the default here, takes a third of the bytes; `float` gives each float32 in its shortest decimals."""


class Verifier(TypedDict, total=False):
    kind: str
    options: dict[str, Any]


class BestOfNOptions(ScoringOptions, total=False):
    method: Literal["rank", "vote"]
    verifier: Verifier
    weight: Literal["sigmoid", "softmax", "none"]
