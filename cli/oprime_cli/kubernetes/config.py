"""Settings of a run on Kubernetes: how many pods, how large, from which images. Read by `oprime k8s`; services pass them over."""

from typing import TYPE_CHECKING

from pydantic import Field

from oprime.runtime.setting_rules import Problems
from oprime.runtime.settings import Section

if TYPE_CHECKING:
    from oprime_generator.config import GeneratorSection
    from oprime_learner.config import LearnerSection
    from oprime_prm.config import PrmSection


class CoresSection(Section):
    """CPU cores that are set aside for one pod."""

    redis: float = Field(default=0.1, gt=0)
    """CPU cores that are set aside for Redis."""
    prepare: float = Field(default=0.2, gt=0)
    """CPU cores that are set aside for the job that makes or fetches the starting model."""
    conclude: float = Field(default=0.05, gt=0)
    """CPU cores that are set aside for the job that waits for the end and writes the report."""
    coordinator: float = Field(default=0.1, gt=0)
    """CPU cores that are set aside for the coordinator."""
    gateway: float = Field(default=0.1, gt=0)
    """CPU cores that are set aside for one gateway."""
    generator: float = Field(default=0.3, gt=0)
    """CPU cores that are set aside for one host of a generator."""
    verifier: float = Field(default=0.2, gt=0)
    """CPU cores that are set aside for one verifier; `verifier.workers` processes share them."""
    prm: float = Field(default=0.2, gt=0)
    """CPU cores that are set aside for one host of the PRM."""
    scorer: float = Field(default=0.2, gt=0)
    """CPU cores that are set aside for one replica that only scores (`scoring.replicas`)."""
    learner: float = Field(default=0.2, gt=0)
    """CPU cores that are set aside for one host of the learner."""


class MemorySection(Section):
    """Memory that is set aside for one pod, and its most, in GiB; what lies in /dev/shm and in Redis counts."""

    redis: float = Field(default=0.5, gt=0)
    """Memory of Redis, in GiB. It refuses what does not fit into three quarters of it; writing its files takes the rest."""
    prepare: float = Field(default=2.5, gt=0)
    """Memory of the job that makes or fetches the starting model, in GiB."""
    conclude: float = Field(default=1.0, gt=0)
    """Memory of the job that waits for the end and writes the report, in GiB."""
    coordinator: float = Field(default=1.0, gt=0)
    """Memory of the coordinator, in GiB."""
    gateway: float = Field(default=0.5, gt=0)
    """Memory of one gateway, in GiB."""
    generator: float = Field(default=4.0, gt=0)
    """Memory of one host of a generator, in GiB, `kubernetes.shared_memory_gib` included."""
    verifier: float = Field(default=1.5, gt=0)
    """Memory of one verifier, in GiB."""
    prm: float = Field(default=2.5, gt=0)
    """Memory of one host of the PRM, in GiB; with `prm.offload_optimizer` 12 bytes a parameter more, over all hosts."""
    scorer: float = Field(default=2.5, gt=0)
    """Memory of one replica that only scores, in GiB: `scoring.versions` PRMs, one more for a moment, and the reference."""
    learner: float = Field(default=2.5, gt=0)
    """Memory of one host of the learner, in GiB; with `learner.offload_optimizer` 12 bytes a parameter more, over all hosts."""


class ReplicasSection(Section):
    """Pods of what scales by itself."""

    gateway: int = Field(default=1, ge=1)
    """Gateways."""
    generator: int = Field(default=1, ge=1)
    """Generators; where KEDA scales them, the fewest."""
    verifier: int = Field(default=1, ge=1)
    """Verifiers; where KEDA scales them, the fewest."""


class MostReplicasSection(Section):
    """Where KEDA stops adding pods."""

    generator: int = Field(default=4, ge=1)
    """Most generators; also what Kueue's quota has room for."""
    verifier: int = Field(default=16, ge=1)
    """Most verifiers."""


class HostsSection(Section):
    """Pods over which a model is spread evenly."""

    generator: int = Field(default=1, ge=1)
    """Hosts of one generator; each takes `generator.tensor_parallel` / this many GPUs. More than 1 needs an overlay with the component
    leader-worker-set."""
    prm: int = Field(default=1, ge=1)
    """Hosts of the PRM; each takes `prm.ranks` / this many ranks, and as many GPUs."""
    learner: int = Field(default=1, ge=1)
    """Hosts of the learner; each takes `learner.ranks` / this many ranks, and as many GPUs."""


class KubernetesSection(Section):
    """A run on Kubernetes (`oprime k8s`, docs/kubernetes.md). What the cluster is like, an overlay says; what the run needs stands here."""

    namespace: str = Field(default="oprime", pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")
    """Namespace of the run. One namespace holds one run."""
    image: str = Field(default="oprime", pattern=r"^[a-z0-9][A-Za-z0-9._:/-]*[a-z0-9]$")
    """Images without their tag, for example REGISTRY/TEAM/oprime; the tag is oprime's version and what the pod needs, such as
    0.1.0-train-gpu."""
    pull_secret: str = ""
    """Secret of the namespace with which images are pulled; empty means none."""
    cores: CoresSection = CoresSection()
    """CPU cores that are set aside for one pod."""
    cores_burst: float = Field(default=4.0, ge=1)
    """How many times the cores that are set aside for it a pod may use while nobody else does."""
    memory_gib: MemorySection = MemorySection()
    """Memory that is set aside for one pod, and its most, in GiB."""
    shared_memory_gib: float = Field(default=0.5, gt=0)
    """Size of /dev/shm of a generator and of a trainer's host, in GiB; part of `kubernetes.memory_gib`. vLLM needs 0.16, more with
    `generator.tensor_parallel` above 1."""
    replicas: ReplicasSection = ReplicasSection()
    """Pods of what scales by itself."""
    most_replicas: MostReplicasSection = MostReplicasSection()
    """Where KEDA stops adding pods."""
    hosts: HostsSection = HostsSection()
    """Pods over which a model is spread evenly."""
    gpu: str = Field(default="nvidia.com/gpu", pattern=r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$")
    """Resource by which the cluster hands out GPUs."""
    storage_class: str = ""
    """Storage class of the volumes; empty means the cluster's default."""
    storage_gib: float = Field(default=20.0, gt=0)
    """Size of the volume with models, weights and checkpoints, in GiB. `oprime train` prints what a run needs of it."""
    redis_storage_gib: float = Field(default=4.0, gt=0)
    """Size of Redis' volume, in GiB: twice what is in its memory, as it rewrites its file into a new one."""


def ranks_fill_hosts(
    kubernetes: KubernetesSection, generator: "GeneratorSection", prm: "PrmSection", learner: "LearnerSection"
) -> Problems:
    counts = {
        "generator.tensor_parallel": (generator.tensor_parallel, "kubernetes.hosts.generator", kubernetes.hosts.generator),
        "prm.ranks": (prm.ranks, "kubernetes.hosts.prm", kubernetes.hosts.prm),
        "learner.ranks": (learner.ranks, "kubernetes.hosts.learner", kubernetes.hosts.learner),
    }
    return [
        f"{setting} = {ranks} is not a multiple of {place} = {hosts}: every host takes equally many ranks; "
        f"set {place}=1 or {setting}={-(-ranks // hosts) * hosts}"
        for setting, (ranks, place, hosts) in counts.items()
        if ranks % hosts
    ]


def only_vllm_has_hosts(kubernetes: KubernetesSection, generator: "GeneratorSection") -> Problems:
    if kubernetes.hosts.generator == 1 or generator.backend == "vllm":
        return []
    return [
        f'kubernetes.hosts.generator = {kubernetes.hosts.generator} with generator.backend = "{generator.backend}": only vllm spreads a '
        "model over hosts; set kubernetes.hosts.generator=1, or generator.backend=vllm"
    ]


def most_replicas_are_most(kubernetes: KubernetesSection) -> Problems:
    return [
        f"kubernetes.most_replicas.{name} = {most} is below kubernetes.replicas.{name} = {fewest}: set "
        f"kubernetes.most_replicas.{name}={fewest}"
        for name in ("generator", "verifier")
        if (most := getattr(kubernetes.most_replicas, name)) < (fewest := getattr(kubernetes.replicas, name))
    ]


def shared_memory_fits(kubernetes: KubernetesSection) -> Problems:
    return [
        f"kubernetes.shared_memory_gib = {kubernetes.shared_memory_gib:g} leaves nothing of kubernetes.memory_gib.{name} = {memory:g}, "
        f"which it is part of: raise kubernetes.memory_gib.{name}"
        for name in ("generator", "prm", "learner")
        if (memory := getattr(kubernetes.memory_gib, name)) <= kubernetes.shared_memory_gib
    ]


KUBERNETES_RULES = (ranks_fill_hosts, only_vllm_has_hosts, most_replicas_are_most, shared_memory_fits)
