"""The sampler on vLLM, whose engine runs in processes of its own, on this host or on several."""

import asyncio
import contextlib
import gc
import json
import multiprocessing
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Coroutine
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import structlog

from oprime.core.types import FinishReason, WeightVersionSpan
from oprime.lm.lora import adapter_shapes, fingerprint, require_base
from oprime.lm.tokenizers import end_token_ids, load_tokenizer
from oprime.runtime.errors import NotReadyError, SettingsError, UnusableInputError
from oprime.runtime.training_settings import LoraSection
from oprime.runtime.weight_transfer import OFFER_S, Transfer
from oprime_generator import engine_process
from oprime_generator.config import GeneratorSection
from oprime_generator.engine_arguments import (
    ONE_HOST,
    WHOLE_MODELS,
    EngineSettings,
    agreed,
    backend,
    engine_arguments,
    set_environment,
)
from oprime_generator.other_hosts import Copy, OtherHosts, require_same_weights
from oprime_generator.sampler import (
    SampleAbortedError,
    SampledResponse,
    SamplerDiedError,
    SampleRequest,
    TextDeltas,
    TokenDelta,
    completed,
    require_room,
    require_same_tensors,
    response_text,
    tensor_shapes,
)
from oprime_generator.vllm_extension import ADAPTER, ADAPTER_ID
from oprime_generator.vllm_models import refusal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = structlog.get_logger()

_WATCH_S = 0.5
_SHUTDOWN_S = 1.0
_AT_THE_END = 1 << 30
"""Stream interval with which vLLM tells of the first token and of the end only."""
_SETTLE_S = 2.0
"""How long after what it breaks the end of a host may be noticed."""


@dataclass(slots=True, eq=False)
class _Growing:
    """A response under way."""

    salt: str = ""
    """What keeps its prompt's keys and values apart from those of other weight versions."""
    anew: bool = False
    """Whether it was given up by a switch of weights, to be read again with the new ones."""
    cached_tokens: int = 0
    first_version: int | None = None
    response_ids: list[int] = field(default_factory=list[int])
    behaviour_logprobs: list[float] = field(default_factory=list[float])


class VllmSampler:
    """The Sampler port on vLLM's AsyncLLM."""

    def __init__(
        self,
        directory: Path,
        *,
        version: int,
        max_prompt_tokens: int,
        max_response_tokens: int,
        settings: GeneratorSection,
        dtype: Literal["float32", "bfloat16"] = "float32",
        trust_remote_code: bool = False,
        transfer: Literal["store", "nccl"] = "store",
        lora: LoraSection = WHOLE_MODELS,
        other_hosts: OtherHosts | None = None,
    ) -> None:
        """With `lora` that has a rank, versions are such adapters on the model in `directory`. With `other_hosts` the engine has workers
        there, too. Whoever made them closes them, after this."""
        self._directory = directory
        self._transfer: Literal["store", "nccl"] = transfer
        self._lora = lora
        self._fingerprint = ""
        self._version = version
        self._salt = str(version)
        self._limits = (max_prompt_tokens, max_response_tokens)
        self._settings = settings
        self._dtype: Literal["float32", "bfloat16"] = dtype
        self._trust_remote_code = trust_remote_code
        self._other_hosts = other_hosts or OtherHosts(ONE_HOST)
        self._running: dict[str, _Growing] = {}
        # Waiting here, not inside vLLM, leaves a waiting response without tokens of weights that are too old.
        self._places = asyncio.Semaphore(settings.max_running_rollouts)
        self._engine: Any = None
        self._death = ""
        self._faults: Path | None = None
        self._processes: list[BaseProcess] = []
        self._switching = asyncio.Lock()
        self._tokenizer: PreTrainedTokenizerBase
        self._end_ids: tuple[int, ...] = ()
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._max_model_tokens = 0

    @property
    def backend(self) -> str:
        return backend()

    @property
    def weight_version(self) -> int:
        return self._version

    @property
    def max_model_tokens(self) -> int:
        return self._max_model_tokens

    # -- life

    async def start(self) -> None:
        await asyncio.to_thread(self._check)
        arguments = self._arguments()
        if self._other_hosts:
            arguments["master_port"] = await self._other_hosts.meet(agreed(arguments))
        building = asyncio.create_task(asyncio.to_thread(self._build, arguments))
        try:
            await self._unless_a_host_is_lost(asyncio.shield(building))
        except (asyncio.CancelledError, SamplerDiedError):
            await engine_process.give_up(building)
            await self.close()
            raise
        except SettingsError as error:
            lost = await self._other_hosts.lost_within(_SETTLE_S) if self._other_hosts else ""
            raise (SamplerDiedError(lost) if lost else error) from error
        try:
            await self._while_alive(self._begin())
            await self._warm_up()
        except BaseException:
            await self.close()
            raise

    async def _begin(self) -> None:
        if self._lora.rank:
            given = {"lora": self._lora.model_dump_json(exclude={"publish"})}
            try:
                await self._engine.collective_rpc("begin_without_effect", kwargs=given)
            except Exception as error:  # vLLM raises a plain one
                reason = (engine_process.root_cause(self._faults) if self._faults else "") or engine_process.fault_text(error)
                raise SettingsError(
                    f"vLLM takes no adapters as learner.lora makes them of model {self._directory}: {reason}; choose other "
                    "learner.lora.targets, or set learner.lora.publish=merged"
                ) from error
        await self._engine.update_weight_version(str(self._version))

    def _check(self) -> None:
        """Check what can be checked without vLLM."""
        import torch
        from transformers import AutoConfig

        self._tokenizer = load_tokenizer(self._directory, trust_remote_code=self._trust_remote_code)
        self._end_ids = end_token_ids(self._tokenizer, self._directory)
        if self._lora.rank:
            self._shapes = adapter_shapes(self._directory, self._lora, trust_remote_code=self._trust_remote_code)
            self._fingerprint = fingerprint(self._directory)
        else:
            self._shapes = tensor_shapes(self._directory)
        prompt, response = self._limits
        config = AutoConfig.from_pretrained(str(self._directory), trust_remote_code=self._trust_remote_code).get_text_config()
        positions = getattr(config, "max_position_embeddings", None)
        self._max_model_tokens = require_room(
            prompt_tokens=prompt, response_tokens=response, positions=positions, model=str(self._directory)
        )
        if reason := refusal(config.to_dict(), on_cpu=not torch.cuda.is_available()):
            raise SettingsError(f"model {self._directory} {reason}")

    def _arguments(self) -> dict[str, Any]:
        """Those of the engine. Sets the environment of its processes."""
        settings = EngineSettings(
            directory=self._directory,
            max_model_tokens=self._max_model_tokens,
            generator=self._settings,
            dtype=self._dtype,
            trust_remote_code=self._trust_remote_code,
            transfer=self._transfer,
            lora=self._lora,
            hosts=self._other_hosts.hosts,
        )
        return engine_arguments(settings, on_cpu=set_environment(settings))

    def _build(self, arguments: dict[str, Any]) -> None:
        """Start vLLM's processes; takes up to a minute."""
        try:
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.v1.engine.async_llm import AsyncLLM
        except ImportError as error:
            raise SettingsError(engine_process.cannot_import(error)) from error
        if not engine_process.is_registered():
            log.warning("vllm_plugin_missing", remedy="install oprime again: vLLM would outlive a generator that is killed")
        self._faults = engine_process.keep_faults()
        others = multiprocessing.active_children()
        try:
            self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
        except (ValueError, OSError, RuntimeError) as error:
            if package := _missing_package(self._directory):
                raise SettingsError(engine_process.cannot_load(self._directory, package)) from error
            reason = engine_process.root_cause(self._faults) or engine_process.fault_text(error)
            raise SettingsError(f"vLLM cannot start with model {self._directory}: {reason}; its log is above") from error
        self._processes = [process for process in multiprocessing.active_children() if process not in others]

    async def _unless_a_host_is_lost(self, work: Awaitable[None]) -> None:
        """Wait for `work`. Raises SamplerDiedError when another host is gone: what its workers have to do would never come."""
        working, losing = asyncio.ensure_future(work), asyncio.create_task(self._other_hosts.watch())
        try:
            await asyncio.wait([working, losing], return_when=asyncio.FIRST_COMPLETED)
            await (losing if losing.done() else working)
        finally:
            working.cancel()
            losing.cancel()
            await asyncio.gather(working, losing, return_exceptions=True)

    async def _warm_up(self) -> None:
        """The first forward pass takes seconds; have it before anybody waits."""
        prompt = (self._end_ids[0],)
        await self.sample(SampleRequest(request_id="warm-up", prompt_ids=prompt, temperature=1.0, max_tokens=2, seed=0))

    async def watch(self) -> None:
        while True:
            if self._death or self._engine is None or self._engine.errored or self._other_hosts.loss:
                raise await self._died("vLLM's engine process has ended")
            await asyncio.sleep(_WATCH_S)

    async def _died(self, how: str, error: BaseException | None = None) -> SamplerDiedError:
        """The engine cannot be used any more. What is said first stands: all that follows is a consequence."""
        if self._other_hosts and not self._death:
            self._death = await self._other_hosts.lost_within(_SETTLE_S)
        if not self._death:
            why = engine_process.root_cause(self._faults) if self._faults else ""
            why = why or (engine_process.fault_text(error) if error else engine_process.endings(self._processes)) or "it left no error"
            self._death = f"{how}: {why}; restart the generator"
        return SamplerDiedError(self._death)

    async def close(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.abort(list(self._running))
            await asyncio.to_thread(engine.shutdown, timeout=_SHUTDOWN_S)
            # Left to the interpreter's end, vLLM's finaliser would complain that its modules are gone.
            del engine
            gc.collect()
        if self._faults is not None:
            self._faults.unlink(missing_ok=True)

    # -- sampling

    async def sample(self, request: SampleRequest) -> SampledResponse:
        async with contextlib.aclosing(self._parts(request, interval=_AT_THE_END)) as parts:
            async for part in parts:
                if isinstance(part, SampledResponse):
                    return part
        raise SampleAbortedError(f"response {request.request_id} was given up")

    async def stream(self, request: SampleRequest) -> AsyncIterator[TokenDelta | SampledResponse]:
        async for part in self._parts(request, interval=1):
            yield part

    async def _parts(self, request: SampleRequest, *, interval: int) -> AsyncGenerator[TokenDelta | SampledResponse]:
        if request.request_id in self._running:
            raise ValueError(f"request {request.request_id} is already under way: give each request an id of its own")
        growing = self._running[request.request_id] = _Growing()
        text = TextDeltas(self._tokenizer)
        try:
            async with self._places:
                async for completion in self._generate(request, growing, interval):
                    ids = tuple(completion.token_ids)
                    logprobs = tuple(_logprob_of(row, token) for row, token in zip(completion.logprobs or (), ids, strict=True))
                    if ids and growing.first_version is None:
                        growing.first_version = self._version
                    growing.response_ids += ids
                    growing.behaviour_logprobs += logprobs
                    if interval == 1 and ids:
                        yield TokenDelta(response_ids=ids, behaviour_logprobs=logprobs, text=text.push(ids))
                    if completion.finish_reason is not None:
                        yield self._finished(request, growing, completion)
        finally:
            del self._running[request.request_id]

    async def _generate(self, request: SampleRequest, growing: _Growing, interval: int) -> AsyncIterator[Any]:
        """Completions as tokens come, of one weight version's reading of the prompt."""
        from vllm.exceptions import VLLMClientError
        from vllm.inputs.engine import tokens_input
        from vllm.sampling_params import RequestOutputKind, SamplingParams
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        parameters = SamplingParams(
            temperature=request.temperature,
            seed=request.seed,
            max_tokens=request.max_tokens,
            top_p=request.top_p,
            top_k=0,
            logprobs=0,
            # One rule for what ends a response, the same for every sampler.
            ignore_eos=True,
            stop_token_ids=list(self._end_ids),
            output_kind=RequestOutputKind.DELTA,
            stream_interval=interval,
            detokenize=False,
        )
        reading = True
        while reading:
            if self._engine is None:
                raise NotReadyError("vLLM is not running yet, or not any more: ask again when the generator is healthy")
            reading, growing.anew, growing.salt = False, False, self._salt
            prompt = tokens_input(list(request.prompt_ids), cache_salt=growing.salt)
            outputs = self._engine.generate(prompt, parameters, request.request_id, lora_request=self._adapter())
            try:
                async with contextlib.aclosing(outputs):
                    async for output in outputs:
                        growing.cached_tokens = output.num_cached_tokens or growing.cached_tokens
                        completion = output.outputs[0]
                        reading = growing.anew and completion.finish_reason == "abort" and not completion.token_ids
                        if not reading:
                            yield completion
            except EngineDeadError as error:
                raise await self._died("vLLM's engine process has ended") from error
            except EngineGenerateError as error:
                raise SampleAbortedError(f"vLLM could not sample {request.request_id}: {error.__cause__!r}") from error
            except VLLMClientError as error:
                raise UnusableInputError(f"vLLM refuses {request.request_id}: {error}") from error

    def _adapter(self) -> Any:
        """What a request names to be sampled with the adapter of the version that samples, whichever that comes to be."""
        if not self._lora.rank:
            return None
        from vllm.lora.request import LoRARequest

        return LoRARequest(ADAPTER, ADAPTER_ID, str(self._directory))

    def _finished(self, request: SampleRequest, growing: _Growing, completion: Any) -> SampledResponse:
        if completion.finish_reason not in ("stop", "length"):
            raise SampleAbortedError(
                f"response {request.request_id} was given up ({completion.finish_reason}) after {len(growing.response_ids)} tokens"
            )
        return SampledResponse(
            response_ids=tuple(growing.response_ids),
            behaviour_logprobs=tuple(growing.behaviour_logprobs),
            spans=tuple(
                WeightVersionSpan(start=span.start, end=span.end, version=int(span.version)) for span in completion.weight_versions or ()
            ),
            finish_reason=FinishReason(completion.finish_reason),
            text=response_text(self._tokenizer, growing.response_ids),
            cached_prompt_tokens=growing.cached_tokens,
        )

    def oldest_version(self, request_id: str) -> int | None:
        growing = self._running.get(request_id)
        return growing.first_version if growing else None

    async def abort(self, request_ids: Collection[str]) -> None:
        running = {request_id: self._running[request_id] for request_id in request_ids if request_id in self._running}
        for growing in running.values():
            growing.anew = False
        if self._engine is not None:
            await self._engine.abort(list(running))

    async def load(self, directory: Path, version: int) -> None:
        if self._engine is None:
            raise NotReadyError("vLLM is not running yet, or not any more: ask again when the generator is healthy")
        require_same_tensors(self._shapes, await asyncio.to_thread(tensor_shapes, directory), directory)
        if self._lora.rank:
            require_base(directory, self._fingerprint, self._directory)
        engine = self._engine
        directories = await self._directories(directory, version) if self._other_hosts else [str(directory)]

        method = "load_adapter_of_host" if self._lora.rank else "reload_weights_of_host"

        async def reload() -> None:
            await engine.collective_rpc(method, kwargs={"directories": directories})

        await completed(self._while_alive(self._switch(reload, version)))

    async def _directories(self, directory: Path, version: int) -> list[str]:
        """Where each host has a version. Raises WeightsRefusedError, also where they have different ones."""
        others = await self._other_hosts.fetch(version)
        require_same_weights(version, Copy.of(directory), others)
        return [str(directory), *(str(copy.directory) for copy in others)]

    async def receive(self, transfer: Transfer, generator_id: str) -> None:
        """See `follow.Receiver`. Written against vLLM 0.32 and not yet run: its test (tests/gpu) needs two GPUs."""
        if self._engine is None:
            raise NotReadyError("vLLM is not running yet, or not any more: ask again when the generator is healthy")
        await completed(self._while_alive(self._receive(transfer, transfer.first_ranks[generator_id])))

    async def _receive(self, transfer: Transfer, first_rank: int) -> None:
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest, WeightTransferUpdateRequest

        engine = self._engine
        # Buffers have vLLM's own size on both sides; the learner's side packs unless told otherwise, this one does not.
        group = {
            "master_address": transfer.host,
            "master_port": transfer.port,
            "rank_offset": first_rank,
            "world_size": transfer.world_size,
            "packed": True,
        }
        tensors = {
            "names": list(transfer.names),
            "dtype_names": list(transfer.dtypes),
            "shapes": [list(shape) for shape in transfer.shapes],
        }

        async def take() -> None:
            # The learner waits inside the group: an engine that cannot get there is of no use to it any more, and is given up.
            async with asyncio.timeout(OFFER_S):
                await engine.init_weight_transfer_engine(WeightTransferInitRequest(init_info=group))
                await engine.start_weight_update()
                await engine.update_weights(WeightTransferUpdateRequest(update_info=tensors))
                await engine.finish_weight_update()
                await engine.shutdown_weight_transfer_engine()

        await self._switch(take, transfer.version)

    async def _while_alive(self, work: Coroutine[Any, Any, None]) -> None:
        """Do `work`, but give it up when the engine ends: its answers would never come. Raises SamplerDiedError then."""
        working, watching = asyncio.create_task(work), asyncio.create_task(self.watch())
        try:
            await asyncio.wait([working, watching], return_when=asyncio.FIRST_COMPLETED)
            await (working if working.done() else watching)
        finally:
            working.cancel()
            watching.cancel()
            await asyncio.gather(working, watching, return_exceptions=True)

    async def _switch(self, load: Callable[[], Coroutine[Any, Any, None]], version: int) -> None:
        engine = self._engine
        async with self._switching:
            try:
                await engine.pause_generation(mode="keep", clear_cache=False)
                self._salt = str(version)
                await self._read_anew()
                await load()
                await engine.update_weight_version(str(version))
                self._version = version
                await engine.resume_generation()
            except BaseException as error:
                # It may be paused for good, and some of its weights new: what it would sample belongs to no version.
                death = await self._died(f"vLLM did not get to weight version {version}", error)
                if isinstance(error, Exception):
                    raise death from error
                raise

    async def _read_anew(self) -> None:
        """Have prompts that are under way without a token yet read with the weights to come, and not with keys of those before."""
        waiting = {name: growing for name, growing in self._running.items() if growing.salt and not growing.response_ids}
        for growing in waiting.values():
            growing.anew = True
        await self._engine.abort(list(waiting))


def _missing_package(directory: Path) -> str:
    """What vLLM's code of the model imports and does not find, as some does of models for images; empty if that is not it."""
    from vllm.model_executor.models.registry import ModelRegistry

    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    for architecture in config.get("architectures") or ():
        try:
            if architecture in ModelRegistry.models:
                ModelRegistry.models[architecture].load_model_cls()
        except ImportError as error:
            return error.name or str(error)
        except (RuntimeError, OSError, AttributeError):
            # A package of another build, say: what vLLM itself said of it stands.
            continue
    return ""


def _logprob_of(row: Any, token: int) -> float:
    return float(row[token].logprob)
