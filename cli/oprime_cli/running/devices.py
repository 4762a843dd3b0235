"""Which service gets which GPU, and how many CPU threads each process gets."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace

from oprime_cli.run_config import RunConfig


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU that this process may use."""

    name: str
    """Its index or UUID, as CUDA_VISIBLE_DEVICES takes it."""
    memory_bytes: int
    """0 when unknown."""


@dataclass(frozen=True, slots=True)
class Devices:
    """The GPUs of the services that compute; none means the CPU."""

    generator: tuple[Gpu, ...] = ()
    prm: tuple[Gpu, ...] = ()
    learner: tuple[Gpu, ...] = ()
    scorers: tuple[Gpu, ...] = ()
    """Those of the replicas that only score, which take them in turn."""

    def of(self, service: str) -> tuple[Gpu, ...]:
        name, _, number = service.partition("-")
        if name == "scorer":
            return (self.scorers[int(number) % len(self.scorers)],) if self.scorers else ()
        gpus: tuple[Gpu, ...] = getattr(self, service, ())
        return gpus

    def shared(self) -> bool:
        """Whether the generator has to share a GPU with a trainer."""
        return bool(set(self.generator) & {*self.prm, *self.learner})


def find_gpus() -> list[Gpu]:
    """GPUs that nvidia-smi lists, narrowed to CUDA_VISIBLE_DEVICES. Empty without a driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=index,uuid,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
    except (subprocess.SubprocessError, OSError):
        return []
    return parse_gpus(answer.stdout, os.environ.get("CUDA_VISIBLE_DEVICES"))


def parse_gpus(listing: str, visible: str | None) -> list[Gpu]:
    """GPUs of a `index, uuid, MiB` listing in the order of CUDA_VISIBLE_DEVICES, which ends at its first unknown name."""
    rows = [[part.strip() for part in line.split(",")] for line in listing.splitlines() if line.count(",") == 2]
    memory = {row[0]: int(row[2]) * 2**20 if row[2].isdigit() else 0 for row in rows}
    by_name = {**memory, **{row[1]: memory[row[0]] for row in rows}}
    if visible is None:
        return [Gpu(name, size) for name, size in memory.items()]
    chosen: list[Gpu] = []
    for name in (part.strip() for part in visible.split(",")):
        if name not in by_name:
            break
        chosen.append(Gpu(name, by_name[name]))
    return chosen


def wanted_gpus(config: RunConfig) -> tuple[int, int, int]:
    """GPUs that generator, prm and learner ask for when there are any."""
    prm = 0 if config.prm.device == "cpu" or not config.algorithm.needs_prm else config.prm.ranks
    learner = 0 if config.learner.device == "cpu" else config.learner.ranks
    return config.generator.tensor_parallel, prm, learner


def assign(config: RunConfig, gpus: Sequence[Gpu]) -> Devices | None:
    """The rule: the generator takes the first `generator.tensor_parallel` GPUs, the PRM the next `prm.ranks` and the
    learner the next `learner.ranks`. With too few for that, PRM and learner share the GPUs after the generator's (they
    take turns anyway); a single GPU is shared by all three. Replicas that only score take what is left, or else the PRM's.
    None when the GPUs do not suffice; without any, the CPU.
    """
    if not gpus:
        return Devices()
    devices = _assigned(config, tuple(gpus))
    if devices is None or not config.scoring.replicas or config.scoring.device == "cpu" or not config.algorithm.needs_prm:
        return devices
    taken = {*devices.generator, *devices.prm, *devices.learner}
    return replace(devices, scorers=tuple(gpu for gpu in gpus if gpu not in taken) or devices.prm or tuple(gpus[-1:]))


def _assigned(config: RunConfig, have: tuple[Gpu, ...]) -> Devices | None:
    generator, prm, learner = wanted_gpus(config)
    if len(have) >= generator + prm + learner:
        return Devices(have[:generator], have[generator : generator + prm], have[generator + prm : generator + prm + learner])
    if len(have) >= generator + max(prm, learner):
        rest = have[generator:]
        return Devices(have[:generator], rest[:prm], rest[:learner])
    if len(have) == 1 and max(generator, prm, learner) == 1:
        return Devices(have, have[:prm], have[:learner])
    return None


def cpu_cores() -> int:
    return len(os.sched_getaffinity(0))


def threads(config: RunConfig, service: str) -> int:
    """Threads for the numeric libraries of one process of a service: an even share of the cores, at least one.

    The generator and the trainers compute at the same time; services that only move records get one, and so do replicas that only score.
    """
    if service.startswith("scorer"):
        return config.scoring.threads or 1
    if service not in {"generator", "prm", "learner"}:
        return 1
    chosen = {"generator": config.generator.threads, "prm": config.prm.threads, "learner": config.learner.threads}[service]
    if chosen:
        return chosen
    # PRM and learner take turns, so the larger of the two counts.
    processes = 1 + max(config.prm.ranks if config.algorithm.needs_prm else 0, config.learner.ranks)
    return max(1, cpu_cores() // processes)
