"""The sampler for platforms without vLLM, and the reference for tests: one rollout at a time, deterministic."""

import asyncio
import queue
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from oprime.core.types import FinishReason
from oprime.lm.file_names import is_held_otherwise
from oprime.lm.lora import add_adapter, fingerprint, in_adapter_file, in_memory, read_tensors, require_base
from oprime.lm.models import Attention, load_causal_lm, longest_context
from oprime.lm.sampling import TokenSampler
from oprime.lm.tokenizers import end_token_ids, load_tokenizer
from oprime.runtime.errors import NotReadyError, WeightsRefusedError
from oprime.runtime.training_settings import LoraSection
from oprime_generator.sampler import (
    SampleAbortedError,
    SampledResponse,
    SamplerDiedError,
    SampleRequest,
    TextDeltas,
    TokenDelta,
    completed,
    merge_spans,
    require_room,
    require_same_tensors,
    response_text,
    tensor_shapes,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_WATCH_S = 0.5


@dataclass(slots=True, eq=False)
class _Job:
    request: SampleRequest
    loop: asyncio.AbstractEventLoop
    streams: bool
    parts: "asyncio.Queue[TokenDelta | SampledResponse | Exception]" = field(default_factory=asyncio.Queue)
    given_up: bool = False
    first_version: int | None = None

    def tell(self, part: TokenDelta | SampledResponse | Exception) -> None:
        with suppress(RuntimeError):  # the caller's loop has ended
            self.loop.call_soon_threadsafe(self.parts.put_nowait, part)


@dataclass(slots=True, eq=False)
class _Switch:
    tensors: dict[str, torch.Tensor]
    version: int
    loop: asyncio.AbstractEventLoop
    done: "asyncio.Future[None]"


class _SwitchFailedError(Exception):
    """Some of the weights may be new, some old: what they would sample belongs to no version."""


class TransformersSampler:
    """The Sampler port on a transformers model, in a thread of its own."""

    backend = "transformers"

    def __init__(
        self,
        directory: Path,
        *,
        version: int,
        max_prompt_tokens: int,
        max_response_tokens: int,
        dtype: Literal["float32", "bfloat16"] = "float32",
        trust_remote_code: bool = False,
        attention: Attention = "sdpa",
        lora: LoraSection | None = None,
    ) -> None:
        """With `lora` that has a rank, versions are such adapters on the model in `directory`."""
        self._directory = directory
        self._version = version
        self._limits = (max_prompt_tokens, max_response_tokens)
        self._dtype: Literal["float32", "bfloat16"] = dtype
        self._trust_remote_code = trust_remote_code
        self._attention: Attention = attention
        self._lora = lora or LoraSection()
        self._fingerprint = ""
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._switches: queue.SimpleQueue[_Switch] = queue.SimpleQueue()
        self._running: dict[str, _Job] = {}
        self._closing = False
        self._death = ""
        self._thread: threading.Thread | None = None
        self._model: PreTrainedModel
        self._tokenizer: PreTrainedTokenizerBase
        self._end_ids: tuple[int, ...] = ()
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._max_model_tokens = 0

    @property
    def weight_version(self) -> int:
        return self._version

    @property
    def max_model_tokens(self) -> int:
        return self._max_model_tokens

    async def start(self) -> None:
        await asyncio.to_thread(self._load_model)
        self._thread = threading.Thread(target=self._work, name="sampler", daemon=True)
        self._thread.start()

    def _load_model(self) -> None:
        self._model = self._loaded(self._directory)
        self._tokenizer = load_tokenizer(self._directory, trust_remote_code=self._trust_remote_code)
        self._end_ids = end_token_ids(self._tokenizer, self._directory)
        self._shapes = tensor_shapes(self._directory)
        if self._lora.rank:
            adapted = add_adapter(self._model, self._lora, seed=0, setting="learner.lora")
            trained = [(name, parameter) for name, parameter in adapted.named_parameters() if parameter.requires_grad]
            self._shapes = {name: tuple(tensor.shape) for name, tensor in in_adapter_file(trained)}
            self._fingerprint = fingerprint(self._directory)
        positions = longest_context(self._model.config)
        prompt, response = self._limits
        self._max_model_tokens = require_room(
            prompt_tokens=prompt, response_tokens=response, positions=positions, model=str(self._directory)
        )

    async def sample(self, request: SampleRequest) -> SampledResponse:
        async with aclosing(self._parts(request, streams=False)) as parts:
            async for part in parts:
                if isinstance(part, SampledResponse):
                    return part
        raise SampleAbortedError(f"response {request.request_id} was given up")

    async def stream(self, request: SampleRequest) -> AsyncIterator[TokenDelta | SampledResponse]:
        async for part in self._parts(request, streams=True):
            yield part

    async def _parts(self, request: SampleRequest, *, streams: bool) -> AsyncGenerator[TokenDelta | SampledResponse]:
        if self._closing:
            raise SampleAbortedError(f"response {request.request_id} was given up: the sampler is closed")
        if request.request_id in self._running:
            raise ValueError(f"request {request.request_id} is already under way: give each request an id of its own")
        job = _Job(request, asyncio.get_running_loop(), streams)
        self._running[request.request_id] = job
        self._jobs.put(job)
        try:
            if self._death:
                raise self._died()
            while True:
                part = await job.parts.get()
                if isinstance(part, Exception):
                    raise part
                yield part
                if isinstance(part, SampledResponse):
                    return
        finally:
            job.given_up = True
            del self._running[request.request_id]

    def oldest_version(self, request_id: str) -> int | None:
        job = self._running.get(request_id)
        return job.first_version if job else None

    async def load(self, directory: Path, version: int) -> None:
        if self._thread is None or self._closing:
            raise NotReadyError("the sampler is not running yet, or not any more: ask again when the generator is healthy")
        tensors = await asyncio.to_thread(self._read, directory)
        await completed(self._switch(tensors, version))

    async def _switch(self, tensors: dict[str, torch.Tensor], version: int) -> None:
        loop = asyncio.get_running_loop()
        switch = _Switch(tensors, version, loop, loop.create_future())
        self._switches.put(switch)
        self._jobs.put(None)  # wakes an idle worker
        while not switch.done.done():
            if not self._is_alive():
                raise self._died()
            await asyncio.wait([switch.done], timeout=_WATCH_S)

    def _loaded(self, directory: Path) -> "PreTrainedModel":
        return load_causal_lm(
            directory,
            dtype=self._dtype,
            attention=self._attention,
            trust_remote_code=self._trust_remote_code,
            longest=sum(self._limits),
        )

    def _read(self, directory: Path) -> dict[str, torch.Tensor]:
        shapes = tensor_shapes(directory)
        require_same_tensors(self._shapes, shapes, directory)
        if self._lora.rank:
            require_base(directory, self._fingerprint, self._directory)
            return in_memory(_tensors(directory))
        if is_held_otherwise(self._model):
            # The experts of a layer are many tensors in files and one in memory: transformers puts them together.
            return self._loaded(directory).state_dict()
        for name in sorted(shapes.keys() - self._model.state_dict().keys()):
            raise WeightsRefusedError(f"{directory} has a tensor {name} that the policy does not know")
        return _tensors(directory)

    async def abort(self, request_ids: Collection[str]) -> None:
        for request_id in request_ids:
            if job := self._running.get(request_id):
                job.given_up = True

    async def watch(self) -> None:
        while True:
            if not self._is_alive():
                raise self._died()
            await asyncio.sleep(_WATCH_S)

    def _is_alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _died(self) -> SamplerDiedError:
        return SamplerDiedError(f"the sampler's thread has ended: {self._death or 'it was closed'}; restart the generator")

    async def close(self) -> None:
        self._closing = True
        for job in self._running.values():
            job.given_up = True
        self._jobs.put(None)
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
        for job in self._running.values():
            job.tell(SampleAbortedError(f"response {job.request.request_id} was given up: the sampler is closed"))

    # -- the worker thread

    def _work(self) -> None:
        try:
            self._take_jobs()
        except _SwitchFailedError as error:
            self._death = str(error)
            for job in list(self._running.values()):
                job.tell(self._died())

    def _take_jobs(self) -> None:
        while True:
            job = self._jobs.get()
            self._apply_switches()
            if job is not None:
                try:
                    job.tell(self._run(job))
                except _SwitchFailedError:
                    raise
                except Exception as error:  # noqa: BLE001 - raised again by the caller of sample()
                    job.tell(error)
            elif self._closing:
                return

    def _run(self, job: _Job) -> SampledResponse:
        request = job.request
        sampler = TokenSampler(self._model, request.prompt_ids, temperature=request.temperature, seed=request.seed, top_p=request.top_p)
        text = TextDeltas(self._tokenizer)
        ids: list[int] = []
        logprobs: list[float] = []
        versions: list[int] = []
        while len(ids) < request.max_tokens and (not ids or ids[-1] not in self._end_ids):
            if job.given_up:
                raise SampleAbortedError(f"response {request.request_id} was given up after {len(ids)} tokens")
            if self._apply_switches():
                sampler.forget_cache()
            token, logprob = sampler.step()
            ids.append(token)
            logprobs.append(logprob)
            versions.append(self._version)
            if job.first_version is None:
                job.first_version = self._version
            if job.streams:
                job.tell(TokenDelta(response_ids=(token,), behaviour_logprobs=(logprob,), text=text.push((token,))))
        return SampledResponse(
            response_ids=tuple(ids),
            behaviour_logprobs=tuple(logprobs),
            spans=merge_spans(versions),
            finish_reason=FinishReason.STOP if ids and ids[-1] in self._end_ids else FinishReason.LENGTH,
            text=response_text(self._tokenizer, ids),
        )

    def _apply_switches(self) -> bool:
        """Take over waiting weights, in place, between two tokens."""
        switched = False
        with suppress(queue.Empty):
            while True:
                switch = self._switches.get_nowait()
                try:
                    self._model.load_state_dict(switch.tensors, strict=False)
                except Exception as error:
                    raise _SwitchFailedError(f"weight version {switch.version} was not loaded: {type(error).__name__}: {error}") from error
                self._version = switch.version
                switched = True
                with suppress(RuntimeError):  # the caller's loop has ended
                    switch.loop.call_soon_threadsafe(_finish, switch.done)
        return switched


def _tensors(directory: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in sorted(directory.glob("*.safetensors")) for name, tensor in read_tensors(file).items()}


def _finish(done: "asyncio.Future[None]") -> None:
    if not done.done():
        done.set_result(None)
