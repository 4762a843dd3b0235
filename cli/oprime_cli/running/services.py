"""The services of a run as processes: command, environment, health."""

import sys
from pathlib import Path

from oprime.runtime.run_end import SUPERVISED
from oprime.runtime.setting_rules import services_of
from oprime_cli.run_config import RunConfig
from oprime_cli.running.devices import Devices, threads
from oprime_cli.running.health import health_of
from oprime_cli.running.scrape import metrics_ports
from oprime_cli.running.supervisor import ProcessSpec

STOP_STAGES = {"gateway": 0, "coordinator": 1}
"""First nobody asks any more, then no new work is given out, then the workers end."""
WORKERS = 2

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
NO_PROXY = "127.0.0.1,localhost"


def service_specs(config: RunConfig, config_file: Path, devices: Devices, *, serve_only: bool) -> list[ProcessSpec]:
    """One spec per service that the run has."""
    return [
        ProcessSpec(
            name=service,
            argv=(sys.executable, "-m", f"oprime_{service}", str(config_file)),
            env=environment(config, service, devices, serve_only=serve_only),
            health=health_of(service, config.endpoints.local(service), config.endpoints.tls),
            stop_stage=STOP_STAGES.get(service, WORKERS),
        )
        for service in services_of(config.algorithm)
    ]


def ranks(config: RunConfig, service: str) -> int:
    return {"prm": config.prm.ranks, "learner": config.learner.ranks}.get(service, 1)


def environment(config: RunConfig, service: str, devices: Devices, *, serve_only: bool) -> dict[str, str]:
    """What a service's environment adds to the supervisor's."""
    gpus = devices.of(service)
    env = {
        **dict.fromkeys(THREAD_VARIABLES, str(threads(config, service))),
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        SUPERVISED: "1",
        "CUDA_VISIBLE_DEVICES": ",".join(gpu.name for gpu in gpus),
        "NO_PROXY": NO_PROXY,
        "no_proxy": NO_PROXY,
    }
    if not gpus:
        env["DS_ACCELERATOR"] = "cpu"
    if needs_no_hub(config):
        env["HF_HUB_OFFLINE"] = "1"
    ports = metrics_ports(config)
    if service in ports:
        env["OPRIME_METRICS_PORT"] = str(ports[service])
    if serve_only and service == "coordinator":
        env["OPRIME_SERVE_ONLY"] = "1"
    return env


def needs_no_hub(config: RunConfig) -> bool:
    """Whether models and tasks are all files of this machine."""
    of_prm = (config.prm.initial_model, config.prm.reference_model) if config.algorithm.needs_prm else ()
    models = [config.model.path, *(name for name in of_prm if name)]
    tasks = (config.tasks.train, config.tasks.heldout)
    return all(Path(model).is_dir() for model in models) and not any(source.startswith("hf://") for source in tasks)
