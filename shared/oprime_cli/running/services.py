"""The services of a run as processes: command, environment, health."""

import sys
from pathlib import Path

from oprime_cli.run_config import RunConfig
from oprime_cli.running.devices import Devices, threads
from oprime_cli.running.health import health_of
from oprime_cli.running.supervisor import ProcessSpec

SERVICES = ("coordinator", "generator", "verifier", "prm", "learner", "gateway")
STOP_STAGES = {"gateway": 0, "coordinator": 1}
"""First nobody asks any more, then no new work is given out, then the workers end."""
WORKERS = 2

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
NO_PROXY = "127.0.0.1,localhost"


def service_specs(config: RunConfig, config_file: Path, devices: Devices, *, serve_only: bool) -> list[ProcessSpec]:
    """One spec per service."""
    return [
        ProcessSpec(
            name=service,
            argv=command(config, service, config_file),
            env=environment(config, service, devices, serve_only=serve_only),
            health=health_of(service, config.endpoints.listen(service)),
            stop_stage=STOP_STAGES.get(service, WORKERS),
        )
        for service in SERVICES
    ]


def ranks(config: RunConfig, service: str) -> int:
    return {"prm": config.prm.ranks, "learner": config.learner.ranks}.get(service, 1)


def command(config: RunConfig, service: str, config_file: Path) -> tuple[str, ...]:
    """A plain process, or one per rank under torch's launcher."""
    module = ("-m", f"oprime_{service}", str(config_file))
    count = ranks(config, service)
    if count == 1:
        return (sys.executable, *module)
    # `standalone` with a numeric address: a free port, and no look-up of this machine's name.
    launcher = ("-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", str(count))
    return (sys.executable, *launcher, *module)


def environment(config: RunConfig, service: str, devices: Devices, *, serve_only: bool) -> dict[str, str]:
    """What a service's environment adds to the supervisor's."""
    gpus = devices.of(service)
    env = {
        **dict.fromkeys(THREAD_VARIABLES, str(threads(config, service))),
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        "CUDA_VISIBLE_DEVICES": ",".join(gpu.name for gpu in gpus),
        "NO_PROXY": NO_PROXY,
        "no_proxy": NO_PROXY,
    }
    if not gpus:
        env["DS_ACCELERATOR"] = "cpu"
    if needs_no_hub(config):
        env["HF_HUB_OFFLINE"] = "1"
    if serve_only and service == "coordinator":
        env["OPRIME_SERVE_ONLY"] = "1"
    return env


def needs_no_hub(config: RunConfig) -> bool:
    """Whether models and tasks are all files of this machine."""
    models = [config.model.path, *(name for name in (config.prm.initial_model, config.prm.reference_model) if name)]
    tasks = (config.tasks.train, config.tasks.heldout)
    return all(Path(model).is_dir() for model in models) and not any(source.startswith("hf://") for source in tasks)
