"""The services of a run as processes: command, environment, health."""

import sys
from collections.abc import Sequence
from pathlib import Path

from oprime.runtime.run_end import SUPERVISED
from oprime.runtime.setting_rules import services_of
from oprime_cli.run_config import RunConfig
from oprime_cli.running.devices import Devices, Gpu, threads
from oprime_cli.running.health import health_of
from oprime_cli.running.scrape import metrics_ports
from oprime_cli.running.supervisor import ProcessSpec

STOP_STAGES = {"gateway": 0, "coordinator": 1}
"""First nobody asks any more, then no new work is given out, then the workers end."""
WORKERS = 2

SCORER = "OPRIME_SCORER"
"""Environment variable: which of endpoints.scorers is a replica's own."""
LOW_PRIORITY = ("nice", "-n", "10")
"""A tenth of what others get of a core, while they want it."""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
NO_PROXY = "127.0.0.1,localhost"


def service_specs(config: RunConfig, config_file: Path, devices: Devices, *, serve_only: bool) -> list[ProcessSpec]:
    """One spec per service that the run has, and one per replica that only scores."""
    services = [
        ProcessSpec(
            name=service,
            argv=(sys.executable, "-m", f"oprime_{service}", str(config_file)),
            env=environment(config, service, devices, serve_only=serve_only),
            health=health_of(service, config.endpoints.local(service), config.endpoints.tls),
            stop_stage=STOP_STAGES.get(service, WORKERS),
        )
        for service in services_of(config.algorithm)
    ]
    return services + scorer_specs(config, config_file, devices, serve_only=serve_only)


def scorers_of(config: RunConfig) -> int:
    """How many replicas a run has that only score."""
    return config.scoring.replicas if config.algorithm.needs_prm else 0


def scorer_specs(config: RunConfig, config_file: Path, devices: Devices, *, serve_only: bool) -> list[ProcessSpec]:
    """One spec per replica that only scores, with an address of endpoints.scorers each. On cores that train too they come second."""
    behind = () if serve_only or devices.scorers else LOW_PRIORITY
    return [
        ProcessSpec(
            name=f"scorer-{number}",
            argv=(*behind, sys.executable, "-m", "oprime_prm.scoring", str(config_file)),
            env={**environment(config, f"scorer-{number}", devices, serve_only=False), SCORER: str(number)},
            health=health_of("scorer", config.endpoints.scorers[number], config.endpoints.tls),
            stop_stage=WORKERS,
        )
        for number in range(scorers_of(config))
    ]


def ranks(config: RunConfig, service: str) -> int:
    return {"prm": config.prm.ranks, "learner": config.learner.ranks}.get(service, 1)


def environment(config: RunConfig, service: str, devices: Devices, *, serve_only: bool) -> dict[str, str]:
    """What a service's environment adds to the supervisor's."""
    env = process_environment(threads(config, service), devices.of(service))
    if needs_no_hub(config):
        env["HF_HUB_OFFLINE"] = "1"
    ports = metrics_ports(config)
    if service in ports:
        env["OPRIME_METRICS_PORT"] = str(ports[service])
    if serve_only and service in ("coordinator", "prm"):
        env["OPRIME_SERVE_ONLY"] = "1"
    return env


def process_environment(threads: int, gpus: Sequence[Gpu]) -> dict[str, str]:
    """What any service's environment adds, by its threads and GPUs."""
    env = {
        **dict.fromkeys(THREAD_VARIABLES, str(threads)),
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        SUPERVISED: "1",
        "CUDA_VISIBLE_DEVICES": ",".join(gpu.name for gpu in gpus),
        "NO_PROXY": NO_PROXY,
        "no_proxy": NO_PROXY,
    }
    return env if gpus else {**env, "DS_ACCELERATOR": "cpu"}


def needs_no_hub(config: RunConfig) -> bool:
    """Whether models and tasks are all files of this machine."""
    of_prm = (config.prm.initial_model, config.prm.reference_model) if config.algorithm.needs_prm else ()
    models = [config.model.path, *(name for name in of_prm if name)]
    tasks = (config.tasks.train, config.tasks.heldout)
    return all(Path(model).is_dir() for model in models) and not any(source.startswith("hf://") for source in tasks)
