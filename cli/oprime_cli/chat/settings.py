"""Which model answers, and how it is reached."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from oprime.runtime.settings import Section
from oprime_cli.chat.model import ChatModel, Usage

if TYPE_CHECKING:
    from oprime_cli.chat.local import LocalModel


class ChatModelSection(Section):
    """A model behind an endpoint (`url`), or on this machine (`path`)."""

    url: str = ""
    """OpenAI-compatible endpoint, for example `http://127.0.0.1:8000/v1`."""
    name: str = ""
    """What the endpoint calls the model."""
    key_file: str = ""
    """File with the endpoint's key, if it wants one."""
    path: str = ""
    """Model directory or hub id, in place of `url`."""
    backend: Literal["vllm", "transformers"] = "vllm"
    """What samples from a local model."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Precision of a local model."""
    trust_remote_code: bool = False
    """Run code that comes with a local model."""
    tensor_parallel: int = Field(default=1, ge=1)
    """GPUs of a local model (vLLM)."""
    gpu_memory_share: float = Field(default=0.9, gt=0, le=1)
    """Share of the GPU that a local model may fill (vLLM)."""
    at_once: int = Field(default=16, ge=1)
    """Requests under way."""
    attempts: int = Field(default=6, ge=1)
    """How often an endpoint is asked before the command gives up."""
    timeout_s: float = Field(default=600.0, gt=0)
    """Seconds after which a request counts as failed."""
    max_prompt_tokens: int = Field(default=4096, ge=1)
    """Longest prompt of a local model; an endpoint has a limit of its own."""
    max_response_tokens: int = Field(default=4096, ge=1)
    """Longest response."""
    temperature: float = Field(default=0.8, ge=0)
    """0 takes the most probable token each time."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """Sample from the most probable tokens that together have this probability; 1 samples from all."""
    prompt_price: float = Field(default=0.0, ge=0)
    """Price of a million prompt tokens, for the cost that is counted."""
    response_price: float = Field(default=0.0, ge=0)
    """Price of a million response tokens."""

    @model_validator(mode="after")
    def one_place(self) -> Self:
        if bool(self.url) == bool(self.path):
            raise ValueError("a model has either a url or a path: give one of the two")
        if self.url and not self.name:
            raise ValueError(f"name is empty: give the name by which {self.url} knows the model")
        return self

    def cost(self, usage: Usage) -> float:
        """In the currency of the prices."""
        return (usage.prompt_tokens * self.prompt_price + usage.response_tokens * self.response_price) / 1e6


@asynccontextmanager
async def chat_model(section: ChatModelSection) -> AsyncIterator[ChatModel]:
    """The model of a section, closed at the end. Raises SettingsError when it cannot be used."""
    model: ChatModel = _endpoint(section) if section.url else await _local(section)
    try:
        yield model
    finally:
        await model.close()


def _endpoint(section: ChatModelSection) -> ChatModel:
    from oprime.client.exchange import Patience
    from oprime.runtime.secret_files import read_secret
    from oprime_cli.chat.endpoint import EndpointModel

    return EndpointModel(
        section.url,
        section.name,
        key=read_secret(Path(section.key_file), "key_file").decode() if section.key_file else "",
        at_once=section.at_once,
        timeout_s=section.timeout_s,
        patience=Patience(attempts=section.attempts),
    )


async def _local(section: ChatModelSection) -> "LocalModel":
    from oprime_cli.chat.local import open_local_model
    from oprime_generator.config import GeneratorSection

    return await open_local_model(
        section.path,
        settings=GeneratorSection(
            backend=section.backend,
            max_running_rollouts=section.at_once,
            tensor_parallel=section.tensor_parallel,
            gpu_memory_share=section.gpu_memory_share,
        ),
        max_prompt_tokens=section.max_prompt_tokens,
        max_response_tokens=section.max_response_tokens,
        dtype=section.dtype,
        trust_remote_code=section.trust_remote_code,
    )
