"""A model on this machine, sampled for an evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from oprime.core.types import ChatMessage
from oprime.evaluation.benchmark import Decoding, Problem
from oprime.evaluation.evaluate import Response
from oprime.lm.tokenizers import load_tokenizer, render_prompt, require_chat_template
from oprime.runtime.errors import OprimeError, UnusableInputError
from oprime_cli.chat.local import Adapter, LocalModel, open_local_model
from oprime_cli.chat.model import ChatRefusedError
from oprime_cli.evaluating.chat_requests import chat_request, response_of
from oprime_generator.config import GeneratorSection

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalSettings:
    """How a model is loaded and sampled."""

    directory: Path
    adapter: Adapter | None = None
    """What goes on the model in `directory`."""
    version: int = 0
    """Weight version of a run; 0 for a model by itself."""
    generator: GeneratorSection
    dtype: Literal["float32", "bfloat16"] = "float32"
    trust_remote_code: bool = False


class LocalSampling:
    """The Sampling port on a model of this machine, with vLLM, or with transformers where generator.backend says so."""

    def __init__(self, settings: LocalSettings) -> None:
        """Loads the tokenizer only. Raises SettingsError."""
        self._settings = settings
        self._tokenizer: PreTrainedTokenizerBase = load_tokenizer(settings.directory, trust_remote_code=settings.trust_remote_code)
        require_chat_template(self._tokenizer)
        self._model: LocalModel | None = None

    async def start(self, conversations: Sequence[Sequence[ChatMessage]], max_tokens: int) -> None:
        """Start the engine with room for the longest of these prompts and `max_tokens` behind it, or for all the model has. Raises
        SettingsError, SamplerDiedError."""
        positions = _positions(self._settings)
        lengths = [length for turns in conversations if (length := self._length(turns)) is not None and length < positions]
        longest = max(lengths, default=1)
        self._model = await open_local_model(
            str(self._settings.directory),
            adapter=self._settings.adapter,
            settings=self._settings.generator,
            max_prompt_tokens=longest,
            max_response_tokens=min(max_tokens, positions - longest),
            dtype=self._settings.dtype,
            trust_remote_code=self._settings.trust_remote_code,
            version=self._settings.version,
        )

    async def close(self) -> None:
        if self._model is not None:
            await self._model.close()

    async def sample(self, problem: Problem, number: int, decoding: Decoding, seed: int) -> Response:
        if self._model is None:
            raise OprimeError("the model is not loaded yet: start it first")
        try:
            return response_of(await self._model.respond(chat_request(problem, decoding, seed)))
        except ChatRefusedError as error:
            raise UnusableInputError(str(error)) from error

    def _length(self, messages: Sequence[ChatMessage]) -> int | None:
        try:
            return len(render_prompt(self._tokenizer, messages))
        except UnusableInputError:  # said of the sample when its turn comes
            return None


def _positions(settings: LocalSettings) -> int:
    from transformers import AutoConfig

    from oprime.lm.models import longest_context

    return longest_context(AutoConfig.from_pretrained(str(settings.directory), trust_remote_code=settings.trust_remote_code))
