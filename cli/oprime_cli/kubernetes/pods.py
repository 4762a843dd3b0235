"""A run's pods as patches of deploy/k8s/base: how many of each, how large, on which ports, and how the kubelet asks for their health."""

import math
from collections.abc import Collection
from typing import Any

from oprime.runtime.rank_launcher import HOSTS
from oprime.runtime.setting_rules import services_of
from oprime_cli.kubernetes.cluster_settings import SCORER, port_of
from oprime_cli.run_config import RunConfig

Manifest = dict[str, Any]

KINDS = {"redis": "StatefulSet", "prepare": "Job", "conclude": "Job", "prm": "Job", "learner": "Job"}
"""What pods belong to, where it is no Deployment."""
APIS = {"Deployment": "apps/v1", "StatefulSet": "apps/v1", "Job": "batch/v1", "PodDisruptionBudget": "policy/v1"}
TRAINERS = ("prm", "learner")
SCALED = ("generator", "verifier")
WITH_MODELS = ("generator", *TRAINERS)
"""Of several processes each, which pass tensors in shared memory."""
GROUPED = "leader-worker-set"
"""The component that makes a group of pods of each generator."""
REDIS_SHARE = 0.75
"""Of Redis' memory, for what it holds; while it writes its files it needs some of the rest."""
GIB, MIB = 2**30, 2**20
ASK = (
    'import os, urllib.request; os.environ["OPRIME_HOST_INDEX"] != "0" or '
    'urllib.request.urlopen("http://127.0.0.1:{port}{path}", timeout=4)'
)
"""Asks host 0, which answers for all; the others have nobody to ask, and end when it does."""


def patch(kind: str, name: str, spec: Manifest) -> Manifest:
    return {"apiVersion": APIS.get(kind, "v1"), "kind": kind, "metadata": {"name": name}, "spec": spec}


def pods(config: RunConfig) -> tuple[str, ...]:
    """The run's pods by name."""
    return ("redis", "prepare", "conclude", *serving(config))


def serving(config: RunConfig) -> tuple[str, ...]:
    """Those that answer: the run's services, and the PRM's replicas that only score."""
    return (*services_of(config.algorithm), SCORER)


def replicas_of(name: str, config: RunConfig) -> int | None:
    """Pods of what scales by itself; None for what does not."""
    if name == SCORER:
        return config.scoring.replicas if config.algorithm.needs_prm else 0
    return getattr(config.kubernetes.replicas, name, None)


def pod_patch(name: str, config: RunConfig, features: Collection[str]) -> Manifest:
    """Everything about a pod that depends on the run."""
    spec, container = _special(name, config, features)
    container = {"name": "service", "resources": resources(name, config, features), **container}
    if name in serving(config):
        container |= _ports_and_probes(name, config, features)
    replicas = replicas_of(name, config)
    # Where KEDA scales, a number here would undo what it has done.
    if replicas is not None and not ("keda" in features and name in SCALED):
        spec["replicas"] = replicas
    template: Manifest = {"containers": [container]}
    if name in WITH_MODELS:
        size = memory(config.kubernetes.shared_memory_gib)
        template["volumes"] = [{"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": size}}]
    return patch(KINDS.get(name, "Deployment"), name, {**spec, "template": {"spec": template}})


def _special(name: str, config: RunConfig, features: Collection[str]) -> tuple[Manifest, Manifest]:
    """What only some pods have: fields of their workload, and of their container."""
    kubernetes = config.kubernetes
    if name == "redis":
        claim = {"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"], **storage(kubernetes.redis_storage_gib, config)}}
        room = int(kubernetes.memory_gib.redis * GIB * REDIS_SHARE)
        return {"volumeClaimTemplates": [claim]}, {"args": ["--maxmemory", str(room)]}
    if name == SCORER:
        return {}, {"env": [_threads(name, config)]}
    if name not in WITH_MODELS:
        return {}, {}
    hosts = hosts_of(name, config)
    environment = [_threads(name, config), variable(HOSTS, hosts)]
    if name in TRAINERS:
        return {"completions": hosts, "parallelism": hosts}, {"env": environment}
    # The component makes the number of pods in a group of it.
    return {}, {"env": environment if GROUPED in features else environment[:1]}


def hosts_of(name: str, config: RunConfig) -> int:
    """Pods over which one of this service is spread."""
    return getattr(config.kubernetes.hosts, name, 1)


def variable(name: str, value: object) -> Manifest:
    return {"name": name, "value": str(value)}


def _threads(name: str, config: RunConfig) -> Manifest:
    """As many threads as a rank has cores: DeepSpeed's optimizer in CPU memory uses them, and so does vLLM on a CPU."""
    ranks = getattr(config, name).ranks // hosts_of(name, config) if name in TRAINERS else 1
    return variable("OMP_NUM_THREADS", max(1, int(getattr(config.kubernetes.cores, name)) // ranks))


def gpus(name: str, config: RunConfig, features: Collection[str]) -> int:
    """GPUs of one pod."""
    if "gpu" not in features or name not in (*WITH_MODELS, SCORER):
        return 0
    if name == "generator":
        return config.generator.tensor_parallel // hosts_of(name, config)
    if name == SCORER:
        return 0 if config.scoring.device == "cpu" else 1
    trainer = getattr(config, name)
    return 0 if trainer.device == "cpu" else trainer.ranks // hosts_of(name, config)


def resources(name: str, config: RunConfig, features: Collection[str]) -> Manifest:
    """Memory and GPUs are what is set aside; cores may be more while nobody else needs them."""
    kubernetes = config.kubernetes
    set_aside = getattr(kubernetes.cores, name)
    fixed: Manifest = {"memory": memory(getattr(kubernetes.memory_gib, name))}
    if count := gpus(name, config, features):
        fixed[kubernetes.gpu] = str(count)
    return {
        "requests": {"cpu": cores(set_aside), **fixed},
        "limits": {"cpu": cores(set_aside * kubernetes.cores_burst), **fixed},
    }


def cores(number: float) -> str:
    """As Kubernetes writes them: whole, or in thousandths."""
    return str(round(number)) if float(number).is_integer() else f"{math.ceil(number * 1000)}m"


def memory(gib: float) -> str:
    return f"{round(gib)}Gi" if float(gib).is_integer() else f"{math.ceil(gib * GIB / MIB)}Mi"


def storage(gib: float, config: RunConfig) -> Manifest:
    named = {"storageClassName": config.kubernetes.storage_class} if config.kubernetes.storage_class else {}
    return {"resources": {"requests": {"storage": memory(gib)}}, **named}


def port_name(name: str) -> str:
    return "http" if name == "gateway" else "grpc"


def _ports_and_probes(name: str, config: RunConfig, features: Collection[str]) -> Manifest:
    port, watched = port_of(config, name), config.endpoints.metrics_port
    ports = [{"name": port_name(name), "containerPort": port}, {"name": "metrics", "containerPort": watched}]
    if name in TRAINERS and hosts_of(name, config) > 1:
        # One template serves all hosts, and only host 0 listens.
        ready, alive = (
            {"exec": {"command": ["python", "-c", ASK.format(port=watched, path=path)]}, "periodSeconds": 20, "timeoutSeconds": 10}
            for path in ("/readyz", "/healthz")
        )
        return {"ports": ports, "startupProbe": ready, "readinessProbe": ready, "livenessProbe": {**alive, "httpGet": None}}
    if name == "gateway":
        return {"ports": ports}
    # The kubelet has no certificate to show a server that asks for one, and a generator's other hosts serve no gRPC.
    by_http = "tls" in features or hosts_of(name, config) > 1
    ready = {"httpGet": {"path": "/readyz", "port": "metrics"}} if by_http else {"grpc": {"port": port}}
    return {"ports": ports, "startupProbe": ready, "readinessProbe": ready}
