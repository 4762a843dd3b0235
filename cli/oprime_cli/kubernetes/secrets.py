"""New secrets of a run, as Secrets for `kubectl create`: a user of Redis for each service and each helper, and a key for the gateway.

Nothing keeps them but the cluster; a second call makes others.
"""

import hashlib
import secrets
from typing import Any

import yaml

from oprime.adapters.redis_access import SCALER, SERVICES, access_file
from oprime_cli.kubernetes.cluster_settings import in_cluster
from oprime_cli.run_config import RunConfig

RENEWER = "renew"
PROBE = "user probe reset on nopass resetchannels +ping"
"""Whom the kubelet asks as. It may do nothing else, so it needs no password."""


def new_secrets(config: RunConfig) -> str:
    """The Secrets as YAML."""
    settled = in_cluster(config, tls=False)
    passwords = {name: secrets.token_hex(32) for name in (*SERVICES, RENEWER)}
    listed = access_file(config.run.name, settled.queue.url, {name: (name, passwords[name]) for name in SERVICES})
    digest = hashlib.sha256(passwords[RENEWER].encode()).hexdigest()
    # For what tells Redis that its certificate was renewed.
    renewer = f"user {RENEWER} reset on resetchannels #{digest} +config|set"
    manifests = [
        _secret("redis-users", config, {"users.acl": f"{listed}{PROBE}\n{renewer}\n"}),
        _secret("redis-passwords", config, {**passwords, "scaler-name": SCALER}),
        _secret("gateway-keys", config, {"api_keys": secrets.token_hex(32) + "\n"}),
    ]
    return yaml.safe_dump_all(manifests, sort_keys=False, width=1000)


def _secret(name: str, config: RunConfig, values: dict[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": config.kubernetes.namespace, "labels": {"app.kubernetes.io/part-of": "oprime"}},
        "type": "Opaque",
        "stringData": values,
    }
