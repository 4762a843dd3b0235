"""A model on this machine, sampled with the generator's own sampler."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from oprime.core.types import ChatMessage
from oprime.evaluation.benchmark import Decoding, Problem
from oprime.evaluation.evaluate import Response
from oprime.lm.tokenizers import load_tokenizer, render_prompt, require_chat_template
from oprime.runtime.errors import OprimeError, UnusableInputError
from oprime_generator.config import GeneratorSection
from oprime_generator.sampler import SampleAbortedError, Sampler, SampleRequest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalSettings:
    """How a model is loaded and sampled."""

    directory: Path
    version: int = 0
    """Weight version of a run; 0 for a model by itself."""
    generator: GeneratorSection
    dtype: Literal["float32", "bfloat16"] = "float32"
    trust_remote_code: bool = False


class LocalModel:
    """The Sampling port on vLLM, or on transformers where generator.backend says so."""

    def __init__(self, settings: LocalSettings) -> None:
        """Loads the tokenizer only. Raises SettingsError."""
        self._settings = settings
        self._tokenizer: PreTrainedTokenizerBase = load_tokenizer(settings.directory, trust_remote_code=settings.trust_remote_code)
        require_chat_template(self._tokenizer)
        self._sampler: Sampler | None = None
        self._names = count()

    async def start(self, conversations: Sequence[Sequence[ChatMessage]], max_tokens: int) -> None:
        """Start the engine with room for the longest of these prompts and `max_tokens` behind it, or for all the model has. Raises
        SettingsError, SamplerDiedError."""
        positions = _positions(self._settings)
        lengths = [length for turns in conversations if (length := self._length(turns)) is not None and length < positions]
        longest = max(lengths, default=1)
        self._sampler = _sampler(self._settings, longest, min(max_tokens, positions - longest))
        await self._sampler.start()

    @property
    def backend(self) -> str:
        return self._sampler.backend if self._sampler is not None else self._settings.generator.backend

    async def close(self) -> None:
        if self._sampler is not None:
            await self._sampler.close()

    async def sample(self, problem: Problem, number: int, decoding: Decoding, seed: int) -> Response:
        if self._sampler is None:
            raise OprimeError("the model is not loaded yet: start it first")
        prompt_ids = tuple(render_prompt(self._tokenizer, problem.task.messages))
        room = self._sampler.max_model_tokens - len(prompt_ids)
        if room < 1:
            raise UnusableInputError(f"the prompt has {len(prompt_ids)} tokens, and the model's context {self._sampler.max_model_tokens}")
        request = SampleRequest(
            request_id=f"evaluation-{next(self._names)}",
            prompt_ids=prompt_ids,
            temperature=decoding.temperature,
            top_p=decoding.top_p,
            max_tokens=min(decoding.max_tokens, room),
            seed=seed,
        )
        try:
            found = await self._sampler.sample(request)
        except SampleAbortedError as error:
            raise OprimeError(f"a response was given up: {error}") from error
        return Response(text=found.text, finish_reason=found.finish_reason.value, tokens=len(found.response_ids))

    def _length(self, messages: Sequence[ChatMessage]) -> int | None:
        try:
            return len(render_prompt(self._tokenizer, messages))
        except UnusableInputError:  # said of the sample when its turn comes
            return None


def _positions(settings: LocalSettings) -> int:
    from transformers import AutoConfig

    from oprime.lm.models import longest_context

    return longest_context(AutoConfig.from_pretrained(str(settings.directory), trust_remote_code=settings.trust_remote_code))


def _sampler(settings: LocalSettings, max_prompt_tokens: int, max_response_tokens: int) -> Sampler:
    if settings.generator.backend == "transformers":
        from oprime_generator.transformers_sampler import TransformersSampler

        return TransformersSampler(
            settings.directory,
            version=settings.version,
            max_prompt_tokens=max_prompt_tokens,
            max_response_tokens=max_response_tokens,
            dtype=settings.dtype,
            trust_remote_code=settings.trust_remote_code,
        )
    from oprime_generator.vllm_sampler import VllmSampler

    return VllmSampler(
        settings.directory,
        version=settings.version,
        max_prompt_tokens=max_prompt_tokens,
        max_response_tokens=max_response_tokens,
        settings=settings.generator,
        dtype=settings.dtype,
        trust_remote_code=settings.trust_remote_code,
    )
