"""The sampler port: what samples responses from the policy, whatever engine does it."""

import asyncio
from collections.abc import AsyncIterator, Collection, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from oprime.core.types import FinishReason, WeightVersionSpan
from oprime.runtime.errors import OprimeError, SettingsError, WeightsRefusedError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class SampleAbortedError(OprimeError):
    """The response was given up before it ended; nothing of it is used."""


class SamplerDiedError(OprimeError):
    """The engine is gone; only a new process helps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRequest:
    request_id: str
    """Unique among the requests under way."""
    prompt_ids: tuple[int, ...]
    temperature: float
    """0 takes the most probable token each time."""
    max_tokens: int
    seed: int
    """The same request gives the same response on the same sampler with the same weights."""
    top_p: float = 1.0
    """Below 1, only the most probable tokens that together have this probability are sampled from. For evaluation: what is trained is
    the whole distribution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledResponse:
    response_ids: tuple[int, ...]
    """Includes the end token, if one was sampled."""
    behaviour_logprobs: tuple[float, ...]
    """After temperature; at temperature 0, as for temperature 1."""
    spans: tuple[WeightVersionSpan, ...]
    """Cover every token once, in order."""
    finish_reason: FinishReason
    text: str
    """Without special tokens."""
    cached_prompt_tokens: int = 0
    """Tokens of the prompt that were not computed again, since a sibling had been there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenDelta:
    """The next tokens of a response under way."""

    response_ids: tuple[int, ...]
    behaviour_logprobs: tuple[float, ...]
    text: str
    """What these tokens add to the text; may be empty where a character is not complete yet."""


class Sampler(Protocol):
    """Samples responses; weights can be switched while it does."""

    @property
    def backend(self) -> str:
        """Name for logs and status, for example `vllm 0.32.0`."""
        ...

    @property
    def weight_version(self) -> int:
        """The version that samples now."""
        ...

    @property
    def max_model_tokens(self) -> int:
        """Most tokens of a prompt and its response together."""
        ...

    async def start(self) -> None:
        """Load the first weights. Raises SettingsError when settings and model do not fit."""
        ...

    async def sample(self, request: SampleRequest) -> SampledResponse:
        """Raises SampleAbortedError after `abort`, SamplerDiedError when the engine ends. Cancelling gives the response up."""
        ...

    def stream(self, request: SampleRequest) -> AsyncIterator[TokenDelta | SampledResponse]:
        """Deltas as tokens come, then the whole response."""
        ...

    def oldest_version(self, request_id: str) -> int | None:
        """Weight version of the first token of a request under way; None before it, and for unknown requests."""
        ...

    async def load(self, directory: Path, version: int) -> None:
        """Move to other weights between two tokens; responses under way go on with them.

        A switch that has begun goes on to its end before a caller's cancellation takes effect: no engine stays between two
        versions. Raises WeightsRefusedError, with the old weights still serving, when the directory does not fit the model,
        NotReadyError before `start`, and SamplerDiedError when the engine is neither at the old nor at the new weights.
        """
        ...

    async def abort(self, request_ids: Collection[str]) -> None:
        """Give responses up; their `sample` calls raise SampleAbortedError. Unknown ids are passed over."""
        ...

    async def watch(self) -> None:
        """Return never; raise SamplerDiedError when the engine ends."""
        ...

    async def close(self) -> None:
        """End the engine and all its processes. Responses under way are given up."""
        ...


async def completed(work: Coroutine[Any, Any, None]) -> None:
    """Run `work` to its end; a cancellation of the caller takes effect only then."""
    task = asyncio.create_task(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            cancelled = True
    if cancelled and not task.cancelled():
        task.exception()  # nobody is left to hear of it
        raise asyncio.CancelledError
    task.result()


def require_room(*, prompt_tokens: int, response_tokens: int, positions: int | None, model: str) -> int:
    """Tokens that prompt and response may have together. Raises SettingsError when the model has fewer positions."""
    needed = prompt_tokens + response_tokens
    if positions is not None and needed > positions:
        raise SettingsError(
            f"sampling.max_prompt_tokens ({prompt_tokens}) + sampling.max_response_tokens ({response_tokens}) = {needed} is more than "
            f"the {positions} positions of {model} (max_position_embeddings): lower one of the two"
        )
    return needed


def require_same_tensors(expected: dict[str, tuple[int, ...]], given: dict[str, tuple[int, ...]], directory: Path) -> None:
    """Raise WeightsRefusedError unless `given` has every expected tensor in its shape. Engines fill what is missing with old weights."""
    for name, shape in expected.items():
        if name not in given:
            raise WeightsRefusedError(f"{directory} lacks the tensor {name} that the policy in use has; publish a complete version")
        if given[name] != shape:
            raise WeightsRefusedError(f"tensor {name} in {directory} has shape {list(given[name])}, the policy in use has {list(shape)}")


def merge_spans(versions: list[int]) -> tuple[WeightVersionSpan, ...]:
    """Spans of equal versions, given the version of each token."""
    spans: list[WeightVersionSpan] = []
    for position, version in enumerate(versions):
        if spans and spans[-1].version == version:
            spans[-1] = WeightVersionSpan(start=spans[-1].start, end=position + 1, version=version)
        else:
            spans.append(WeightVersionSpan(start=position, end=position + 1, version=version))
    return tuple(spans)


def tensor_shapes(directory: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in a model directory, from the headers of its safetensors files alone.

    Raises WeightsRefusedError for a file that cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    shapes: dict[str, tuple[int, ...]] = {}
    for file in sorted(directory.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as opened:
                shapes |= {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118 - no mapping
        except (OSError, SafetensorError) as error:
            raise WeightsRefusedError(f"{file} cannot be read: {error}") from error
    return shapes


class TextDeltas:
    """Turns tokens into text as they come; a character that needs several tokens waits for its last one."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._sent = 0

    def push(self, response_ids: Collection[int]) -> str:
        self._ids += response_ids
        text = response_text(self._tokenizer, self._ids)
        if text.endswith("\ufffd"):
            return ""
        fresh = text[self._sent :]
        self._sent = len(text)
        return fresh


def response_text(tokenizer: "PreTrainedTokenizerBase", response_ids: Collection[int]) -> str:
    """Text of a response without special tokens."""
    return str(tokenizer.decode(list(response_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))
