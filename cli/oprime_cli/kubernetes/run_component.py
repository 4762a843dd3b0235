"""The part of an overlay that belongs to one run: its settings, and every number, image and port that follows from them.

Written as the files of a kustomize Component. The overlay's other components say what the cluster is like, and are the `features` here.
"""

import math
from collections.abc import Collection, Mapping
from importlib import metadata
from typing import Literal

import tomli_w
import yaml

from oprime.adapters.redis_streams import GROUP, stream_key
from oprime.ports.streams import ROLLOUTS, TICKETS
from oprime_cli.kubernetes.cluster_settings import REDIS, REDIS_PORT, SCORER, in_cluster, port_of, to_document
from oprime_cli.kubernetes.pods import (
    GROUPED,
    SCALED,
    TRAINERS,
    Manifest,
    gpus,
    hosts_of,
    memory,
    patch,
    pod_patch,
    pods,
    port_name,
    replicas_of,
    serving,
    storage,
)
from oprime_cli.run_config import RunConfig
from oprime_cli.running.failures import PlanRefusedError

VERIFIER_ENTRIES = 8
"""Rollouts that wait for each worker of a verifier before another is started: four times what is in its judgement or ready for it."""
SETTINGS: Mapping[str, Literal["exit", "serve"]] = {"run.toml": "exit", "serving.toml": "serve"}
"""What jobs read, which end with the run, and what is kept up reads, which goes on serving."""
HEAD = "# Made by `oprime k8s render` from the run's TOML: change that, not this file.\n"


def run_files(config: RunConfig, features: Collection[str]) -> dict[str, str]:
    """Content by file name. Raises PlanRefusedError if the settings cannot hold in a cluster."""
    settled = in_cluster(config, tls="tls" in features)
    if (hosts := settled.kubernetes.hosts.generator) > 1 and GROUPED not in features:
        raise PlanRefusedError(
            [
                f"kubernetes.hosts.generator = {hosts} needs an overlay with the component {GROUPED}, such as large: without it every pod "
                "would be a generator by itself; take that overlay, or set kubernetes.hosts.generator=1"
            ]
        )
    patches: dict[str, list[Manifest]] = {
        "pods.yaml": [pod_patch(name, settled, features) for name in pods(settled)],
        "services.yaml": [_service(name, settled) for name in serving(settled)],
        "budgets.yaml": [_budget(name, settled) for name in TRAINERS if name in pods(settled)],
        "volume.yaml": [patch("PersistentVolumeClaim", "runs", storage(settled.kubernetes.storage_gib, settled))],
        "account.yaml": _account(settled),
        "scaling.yaml": [_scaling(name, settled) for name in SCALED] if "keda" in features else [],
        "quota.yaml": [_quota(settled, features)] if "kueue" in features else [],
    }
    written = {name: HEAD + _documents(manifests) for name, manifests in patches.items() if manifests}
    return {
        "kustomization.yaml": HEAD + _documents([_component(settled, features, list(written))]),
        **{name: HEAD + "\n" + tomli_w.dumps(to_document(settled, end)) for name, end in SETTINGS.items()},
        **written,
    }


class _Plain(yaml.SafeDumper):
    """Writes what stands in two places twice."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _documents(manifests: list[Manifest]) -> str:
    return yaml.dump_all(manifests, Dumper=_Plain, sort_keys=False, width=140)


def _component(config: RunConfig, features: Collection[str], patches: list[str]) -> Manifest:
    suffix = "gpu" if "gpu" in features else "cpu"
    tags = {"slim": "slim", "train": f"train-{suffix}", "generator": f"generator-{suffix}"}
    version = metadata.version("oprime")
    return {
        "apiVersion": "kustomize.config.k8s.io/v1alpha1",
        "kind": "Component",
        "configMapGenerator": [{"name": "run", "files": list(SETTINGS)}],
        "images": [
            {"name": f"oprime-{target}", "newName": config.kubernetes.image, "newTag": f"{version}-{tag}"} for target, tag in tags.items()
        ],
        "patches": [{"path": name} for name in patches],
    }


def _service(name: str, config: RunConfig) -> Manifest:
    kind = port_name(name)
    return patch("Service", name, {"ports": [{"name": kind, "port": port_of(config, name), "targetPort": kind}]})


def _budget(name: str, config: RunConfig) -> Manifest:
    return patch("PodDisruptionBudget", name, {"minAvailable": hosts_of(name, config)})


def _account(config: RunConfig) -> list[Manifest]:
    secret = config.kubernetes.pull_secret
    if not secret:
        return []
    return [{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "oprime"}, "imagePullSecrets": [{"name": secret}]}]


def _scaling(name: str, config: RunConfig) -> Manifest:
    """How KEDA scales a stage: by all that it has to do, or by what nobody has taken yet."""
    encrypted = {"enableTLS": "true"} if config.queue.url.startswith("rediss://") else {}
    place = {"address": f"{REDIS}.{config.kubernetes.namespace}.svc:{REDIS_PORT}", **encrypted}
    if name == "generator":
        wanted = {"stream": stream_key(config.run.name, TICKETS), "streamLength": str(config.generator.max_running_groups)}
    else:
        lag = str(VERIFIER_ENTRIES * config.verifier.workers)
        wanted = {"stream": stream_key(config.run.name, ROLLOUTS), "consumerGroup": GROUP, "lagCount": lag}
    spec = {
        "minReplicaCount": getattr(config.kubernetes.replicas, name),
        "maxReplicaCount": getattr(config.kubernetes.most_replicas, name),
        "triggers": [{"type": "redis-streams", "authenticationRef": {"name": "redis"}, "metadata": {**place, **wanted}}],
    }
    return {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": {"name": name}, "spec": spec}


def _quota(config: RunConfig, features: Collection[str]) -> Manifest:
    """What the pods that wait in Kueue's queue ask for together, with as many generators as there may be."""
    kubernetes = config.kubernetes
    counts = {"generator": kubernetes.most_replicas.generator if "keda" in features else kubernetes.replicas.generator}
    counts |= {**dict.fromkeys(TRAINERS, 1), SCORER: replicas_of(SCORER, config) or 0}
    counts = {name: count * hosts_of(name, config) for name, count in counts.items() if name in pods(config)}
    names = {
        "cpu": str(math.ceil(sum(getattr(kubernetes.cores, name) * count for name, count in counts.items()))),
        "memory": memory(sum(getattr(kubernetes.memory_gib, name) * count for name, count in counts.items())),
    }
    if "gpu" in features:
        names[kubernetes.gpu] = str(sum(gpus(name, config, features) * count for name, count in counts.items()))
    flavour = {"name": "oprime", "resources": [{"name": name, "nominalQuota": quota} for name, quota in names.items()]}
    spec = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": kubernetes.namespace}},
        "resourceGroups": [{"coveredResources": list(names), "flavors": [flavour]}],
    }
    return {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "ClusterQueue", "metadata": {"name": "oprime"}, "spec": spec}
