"""Overlays: a folder of deploy/k8s/overlays with the settings of one run put in, and what kustomize makes of it.

`python -m oprime_cli.kubernetes.overlays` writes anew what deploy/k8s has of deploy/config and deploy/observability.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from oprime.runtime.errors import OprimeError
from oprime_cli.files import write_atomically
from oprime_cli.kubernetes.monitoring import dashboards_component, prometheus_rule
from oprime_cli.kubernetes.run_component import run_files
from oprime_cli.overrides import load_config
from oprime_cli.run_config import RunConfig
from oprime_cli.running.failures import UsageError

TREE = Path(__file__).parents[3] / "deploy/k8s"
OBSERVABILITY = TREE.parent / "observability"
EXAMPLES = {"local": "demo.toml", "gpu-single": "qwen2.5-0.5b-gsm8k.toml", "large": "eurus-2-7b-prime.toml"}
"""Overlay -> the file of deploy/config whose run stands in it."""
KUSTOMIZATION = "kustomization.yaml"
RUN = "run"
"""An overlay's folder, and component, with what belongs to the run."""
MARK = "# Made by `oprime k8s render` from the overlay "
KUSTOMIZERS = (("kubectl", "kustomize"), ("kustomize", "build"))
KUSTOMIZE_S = 120.0
WITHOUT_PRM: dict[str, Any] = {
    "target": {"labelSelector": "app.kubernetes.io/name=prm"},
    "patch": "$patch: delete\napiVersion: v1\nkind: Any\nmetadata: {name: any}\n",
}


def write_overlay(config: RunConfig, overlay: str, folder: Path, *, tree: Path = TREE) -> None:
    """Write an overlay of `tree` with this run in it to `folder`; it names the rest of the tree by relative paths.

    Raises UsageError when there is no such overlay or the folder holds something else, PlanRefusedError for settings that cannot hold.
    """
    source = _overlay(overlay, tree)
    kustomization = _kustomization(source)
    files = run_files(config, features(source))
    _refuse_foreign(folder)
    kustomization["namespace"] = config.kubernetes.namespace
    for field in ("resources", "components"):
        kustomization[field] = [name if name == RUN else _seen_from(folder, source / name) for name in kustomization.get(field, [])]
    if not config.algorithm.needs_prm:
        kustomization["patches"] = [*kustomization.get("patches", []), WITHOUT_PRM]
    _write(folder / RUN, files)
    head = f"{MARK}{overlay} for the run {config.run.name}.\n"
    write_atomically(folder / KUSTOMIZATION, head + yaml.safe_dump(kustomization, sort_keys=False, width=140))


def features(overlay: Path) -> frozenset[str]:
    """What an overlay's components say of its cluster, by name."""
    components = _kustomization(overlay).get("components", [])
    if RUN not in components:
        raise UsageError(f"{overlay / KUSTOMIZATION} has no component `{RUN}`, in which the run's numbers stand: add it to `components`")
    return frozenset(Path(name).name for name in components)


def manifests(folder: Path) -> str:
    """What kustomize makes of an overlay. Raises UsageError where there is no kustomize, OprimeError with its words if it fails."""
    for program, verb in KUSTOMIZERS:
        if found := shutil.which(program):
            result = subprocess.run([found, verb, str(folder)], capture_output=True, text=True, timeout=KUSTOMIZE_S, check=False)
            if result.returncode:
                raise OprimeError(f"{program} {verb} failed: {result.stderr.strip()}")
            return result.stdout
    raise UsageError(
        "neither kubectl nor kustomize is on PATH, so nothing can put the manifests together: install kubectl, or write the overlay with "
        "--out DIR and apply it where kubectl is (kubectl apply -k DIR)"
    )


def _overlay(name: str, tree: Path) -> Path:
    known = sorted(path.parent.name for path in tree.glob(f"overlays/*/{KUSTOMIZATION}"))
    if not known:
        raise UsageError(f"there are no overlays in {tree}: use a checkout of oprime, or name its folder deploy/k8s with --tree")
    if name not in known:
        raise UsageError(f"--overlay {name}: {tree / 'overlays'} has none of this name, but {', '.join(known)}")
    return tree / "overlays" / name


def _kustomization(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / KUSTOMIZATION).read_text(encoding="utf-8"))


def _refuse_foreign(folder: Path) -> None:
    """Only what this command wrote is written over."""
    file = folder / KUSTOMIZATION
    written_here = file.is_file() and file.read_text(encoding="utf-8").startswith(MARK)
    if folder.exists() and not written_here and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"--out {folder} holds something that `oprime k8s render` did not write: name another folder, or an empty one")


def _seen_from(folder: Path, other: Path) -> str:
    # kustomize takes relative paths alone.
    return os.path.relpath(other.resolve(), folder.resolve())


def _write(folder: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        write_atomically(folder / name, text)
    for path in folder.iterdir():
        if path.name not in files:
            path.unlink()


def generated_files() -> dict[Path, str]:
    """Everything in deploy that is made of other files there."""
    files = {
        OBSERVABILITY / KUSTOMIZATION: dashboards_component(OBSERVABILITY),
        TREE / "components/monitoring/rules.yaml": prometheus_rule(OBSERVABILITY / "alerts.yaml"),
    }
    for overlay, example in EXAMPLES.items():
        folder = TREE / "overlays" / overlay
        made = run_files(load_config(TREE.parent / "config" / example), features(folder))
        files |= {folder / RUN / name: text for name, text in made.items()}
    return files


def main() -> None:
    for path, text in generated_files().items():
        write_atomically(path, text)


if __name__ == "__main__":
    main()
