"""A model on this machine, with the generator's samplers."""

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from oprime.core.types import FinishReason
from oprime.runtime.errors import UnusableInputError
from oprime_cli.chat.model import ChatRefusedError, ChatRequest, ChatResponse, ChatUnavailableError, Usage

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from oprime.runtime.training_settings import LoraSection
    from oprime_generator.config import GeneratorSection
    from oprime_generator.sampler import SampledResponse, Sampler


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """A version that is an adapter (LoRA), as a learner publishes it."""

    directory: Path
    lora: "LoraSection"
    """Of the learner that made it."""


class LocalModel:
    """Conversations through the chat template of a model of Hugging Face form."""

    def __init__(self, sampler: "Sampler", tokenizer: "PreTrainedTokenizerBase", *, at_once: int) -> None:
        """The sampler is started already, and closed by `close`."""
        self.usage = Usage()
        self._sampler = sampler
        self._tokenizer = tokenizer
        self._turns = asyncio.Semaphore(at_once)
        self._numbers = itertools.count()

    async def close(self) -> None:
        await self._sampler.close()

    async def respond(self, request: ChatRequest) -> ChatResponse:
        ids = self._prompt(request)
        async with self._turns:
            sampled = await self._sample(ids, request)
        text, stopped = _until(sampled.text, request.stop)
        response = ChatResponse(
            text=text,
            cut=not stopped and sampled.finish_reason is FinishReason.LENGTH,
            prompt_tokens=len(ids),
            response_tokens=len(sampled.response_ids),
        )
        self.usage.add(response)
        return response

    def _prompt(self, request: ChatRequest) -> tuple[int, ...]:
        from oprime.lm.tokenizers import render_prompt

        try:
            ids = render_prompt(self._tokenizer, request.messages)
        except UnusableInputError as error:
            raise ChatRefusedError(str(error)) from error
        if len(ids) >= self._sampler.max_model_tokens:
            raise ChatRefusedError(f"the prompt has {len(ids)} tokens, and the model's context {self._sampler.max_model_tokens}")
        return tuple(ids)

    async def _sample(self, ids: tuple[int, ...], request: ChatRequest) -> "SampledResponse":
        from oprime_generator.sampler import SampleAbortedError, SamplerDiedError, SampleRequest

        try:
            return await self._sampler.sample(
                SampleRequest(
                    request_id=f"chat-{next(self._numbers)}",
                    prompt_ids=ids,
                    temperature=request.temperature,
                    top_p=request.top_p,
                    max_tokens=min(request.max_tokens, self._sampler.max_model_tokens - len(ids)),
                    seed=request.seed,
                )
            )
        except (SampleAbortedError, SamplerDiedError) as error:
            raise ChatUnavailableError(f"the local model has ended: {error}") from error


async def open_local_model(
    model: str,
    *,
    adapter: Adapter | None = None,
    settings: "GeneratorSection",
    max_prompt_tokens: int,
    max_response_tokens: int,
    dtype: Literal["float32", "bfloat16"],
    trust_remote_code: bool = False,
    version: int = 0,
) -> LocalModel:
    """Load a model from a directory or of the hub, with `adapter` on it; `version` is the weight version where it is a run's. Prompt and
    response share the room.

    Raises SettingsError when it or its chat template cannot be used, WeightsRefusedError when the adapter does not belong to it.
    """
    from oprime.adapters.store_weights import model_directory
    from oprime.lm.tokenizers import load_tokenizer, require_chat_template

    directory = await asyncio.to_thread(model_directory, model)
    tokenizer = await asyncio.to_thread(load_tokenizer, directory, trust_remote_code=trust_remote_code)
    require_chat_template(tokenizer)
    limits = (max_prompt_tokens, max_response_tokens)
    sampler = _sampler(directory, adapter, settings, limits, dtype, trust_remote_code=trust_remote_code, version=version)
    await sampler.start()
    if adapter is not None:
        await _put_on(sampler, adapter, version)
    return LocalModel(sampler, tokenizer, at_once=settings.max_running_rollouts)


async def _put_on(sampler: "Sampler", adapter: Adapter, version: int) -> None:
    """Let `sampler`, which has begun with the model alone, go on to the adapter, as a run's generator does; closes it where that fails."""
    try:
        await sampler.load(adapter.directory, version)
    except BaseException:
        await sampler.close()
        raise


def _sampler(
    directory: Path,
    adapter: Adapter | None,
    settings: "GeneratorSection",
    limits: tuple[int, int],
    dtype: Literal["float32", "bfloat16"],
    *,
    trust_remote_code: bool,
    version: int,
) -> "Sampler":
    prompt, response = limits
    lora = None if adapter is None else adapter.lora
    if settings.backend == "transformers":
        from oprime_generator.transformers_sampler import TransformersSampler

        return TransformersSampler(
            directory,
            version=version,
            max_prompt_tokens=prompt,
            max_response_tokens=response,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            lora=lora,
        )
    from oprime.runtime.training_settings import LoraSection
    from oprime_generator.vllm_sampler import VllmSampler

    return VllmSampler(
        directory,
        version=version,
        max_prompt_tokens=prompt,
        max_response_tokens=response,
        settings=settings,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
        lora=lora or LoraSection(),
    )


def _until(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """The text up to the first of the texts that end it, and whether there was one."""
    found = [place for end in stop if (place := text.find(end)) >= 0]
    return (text[: min(found)], True) if found else (text, False)
