"""deploy/observability for the cluster: its dashboards as ConfigMaps, its alerts as a PrometheusRule."""

from pathlib import Path

import yaml

HEAD = "# Made of deploy/observability by `python -m oprime_cli.kubernetes.overlays`: change what stands there.\n"


def dashboards_component(observability: Path) -> str:
    """A kustomization beside the dashboards, since kustomize reads no file from outside its folder."""
    names = sorted(path.relative_to(observability).as_posix() for path in observability.glob("dashboards/*.json"))
    document = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "configMapGenerator": [{"name": f"dashboard-{Path(name).stem}", "files": [name]} for name in names],
        # Grafana's sidecar finds them by this label; nothing names them, so they need no hash.
        "generatorOptions": {"disableNameSuffixHash": True, "labels": {"grafana_dashboard": "1"}},
    }
    return HEAD + yaml.safe_dump(document, sort_keys=False, width=140)


def prometheus_rule(alerts: Path) -> str:
    groups = yaml.safe_load(alerts.read_text(encoding="utf-8"))["groups"]
    document = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "oprime"},
        "spec": {"groups": groups},
    }
    return HEAD + yaml.safe_dump(document, sort_keys=False, width=140)
