"""The overlay `local` as a cluster would run it, without one: each pod's containers in a network of its own, with the pod's own files.

What the API server and the kubelet would do is done here: settings and secrets become files, init containers run first, Services are names,
jobs end, deployments are kept up. The root of each pod's file system is read-only, as in the cluster; images are this checkout.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from kubernetes_manifests import ROOT, Manifest, Rendered, main_container, rendered_for
from network_namespaces import Host, hosts, needs_hosts
from oprime.adapters.local_redis import find_server
from oprime_cli.kubernetes.secrets import new_secrets
from oprime_cli.overrides import load_config

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.redis, pytest.mark.timeout(900), needs_hosts()]

OVERRIDES = (
    "run.steps=2",
    "run.evaluate_every=0",
    "run.checkpoint_every=2",
    "sft.steps=10",
    "sft.batch_rows=32",
    "coordinator.groups_per_batch=4",
    "coordinator.filter.enabled=false",
    "generator.backend=transformers",
    "tasks.chain.heldout_problems=8",
)
"""The shortest run: what is tested here is what surrounds it."""
PLACES = ("/etc/oprime", "/var/lib/oprime", "/var/cache/oprime", "/run/secrets", "/etc/redis", "/data")
"""Where pods mount something; empty folders of this machine."""
RUN_S, STOP_S = 600.0, 60.0
ASK_GRPC = """
import sys, grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
stub = health_pb2_grpc.HealthStub(grpc.insecure_channel("127.0.0.1:" + sys.argv[1], options=[("grpc.enable_http_proxy", 0)]))
sys.exit(stub.Check(health_pb2.HealthCheckRequest(), timeout=5).status != health_pb2.HealthCheckResponse.SERVING)
"""
ASK_HTTP = "import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=5)"
READ_HTTP = """
import sys, urllib.request
asked = urllib.request.Request(sys.argv[1], headers={"Authorization": "Bearer " + sys.argv[2]})
print(urllib.request.urlopen(asked, timeout=20).read().decode())
"""


class Cluster:
    def __init__(self, run: Rendered, folder: Path, machines: dict[str, Host]) -> None:
        self._run = run
        self._folder = folder
        self._machines = machines
        self._files: dict[str, dict[str, str]] = {item["metadata"]["name"]: item["data"] for item in run.of("ConfigMap")}
        self._files |= {item["metadata"]["name"]: item["stringData"] for item in yaml.safe_load_all(new_secrets(run.settings))}
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        template = self._run.pods()[name]
        steps = [*template["spec"].get("initContainers", []), main_container(template)]
        script = " && ".join(self._container(name, template, container) for container in steps[:-1])
        last = self._container(name, template, steps[-1], replace=True)
        command = self._machines[name].command("sh", "-c", f"{script} && {last}" if script else last)
        with (self._folder / f"{name}.log").open("wb") as log:
            self.running[name] = subprocess.Popen(command, stdout=log, stderr=log)

    def _container(self, name: str, template: Manifest, container: Manifest, *, replace: bool = False) -> str:
        """The shell command that mounts what the container mounts, and runs it with its environment and no other."""
        volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]} | {
            "data": {"persistentVolumeClaim": {"claimName": "data"}}
        }
        script = ["set -e", "mount -t tmpfs secrets /run/secrets"]
        # /tmp last: what is mounted elsewhere may come from there.
        for mount in sorted(container.get("volumeMounts", []), key=lambda mount: mount["mountPath"] == "/tmp"):  # noqa: S108
            script += self._mounted(name, volumes[mount["name"]], mount)
        # /work and the rest are parts of the root's file system.
        script += ["mount -o remount,ro,bind /", "cd /tmp"]
        variables = {item["name"]: item["value"] for item in container.get("env", []) if "value" in item}
        variables |= {
            "PATH": f"{Path(sys.executable).parent}:{find_server().parent}:/usr/bin:/bin",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        words = [*container["command"], *container.get("args", [])]
        script.append(shlex.join(["exec", "env", "-i", *(f"{key}={value}" for key, value in variables.items()), *words]))
        return f"{'exec ' if replace else ''}unshare --mount sh -c {shlex.quote('; '.join(script))}"

    def _mounted(self, name: str, volume: Manifest, mount: Manifest) -> list[str]:
        path = mount["mountPath"]
        if "emptyDir" in volume:
            return [f"mount -t tmpfs {mount['name']} {path}"]
        folder = self._folder / "volumes" / volume.get("persistentVolumeClaim", {}).get("claimName", f"{name}-{mount['name']}")
        folder.mkdir(parents=True, exist_ok=True)
        source = volume.get("configMap", {}).get("name") or volume.get("secret", {}).get("secretName")
        if source:
            items = volume.get("secret", {}).get("items") or [{"key": key, "path": key} for key in self._files[source]]
            for item in items:
                (folder / item["path"]).write_text(self._files[source][item["key"]], encoding="utf-8")
        closed = [f"mount -o remount,ro,bind {path}"] if mount.get("readOnly") else []
        return [f"mkdir -p {path}", f"mount --bind {folder} {path}", *closed]

    def asked(self, name: str, probe: str) -> bool:
        handler = main_container(self._run.pods()[name])[probe]
        ports = {port["name"]: port["containerPort"] for port in main_container(self._run.pods()[name])["ports"]}
        if "grpc" in handler:
            words = [sys.executable, "-c", ASK_GRPC, str(handler["grpc"]["port"])]
        else:
            words = [sys.executable, "-c", ASK_HTTP, f"http://127.0.0.1:{ports[handler['httpGet']['port']]}{handler['httpGet']['path']}"]
        return subprocess.run(self._machines[name].command(*words), capture_output=True, check=False).returncode == 0

    def shown(self, path: str) -> str:
        """What the gateway answers to whoever has the key."""
        address, key = f"http://127.0.0.1:8080{path}", self._files["gateway-keys"]["api_keys"].strip()
        words = [sys.executable, "-c", READ_HTTP, address, key]
        return subprocess.run(self._machines["gateway"].command(*words), capture_output=True, text=True, check=True).stdout

    def log_of(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def wait_until_ready(self, name: str) -> None:
        ends = time.monotonic() + RUN_S
        while not self.asked(name, "startupProbe"):
            assert self.running[name].poll() is None, self.log_of(name)[-3000:]
            assert time.monotonic() < ends, self.log_of(name)[-3000:]
            time.sleep(1)

    def wait_for(self, name: str) -> int:
        try:
            return self.running[name].wait(RUN_S)
        except subprocess.TimeoutExpired:
            pytest.fail("\n".join(f"== {pod}\n{self.log_of(pod)[-1500:]}" for pod in self.running))

    def stop(self, name: str) -> int:
        self.running[name].send_signal(signal.SIGTERM)
        return self.running[name].wait(STOP_S)


@contextmanager
def cluster(run: Rendered, folder: Path) -> Iterator[Cluster]:
    made = [Path(place) for place in PLACES if not Path(place).exists()]
    for path in made:
        path.mkdir(parents=True)
    try:
        with hosts(sorted(run.pods())) as machines:
            running = Cluster(run, folder, machines)
            try:
                yield running
            finally:
                for process in running.running.values():
                    process.kill()
                    process.wait()
    finally:
        for path in made:
            path.rmdir()


def test_a_run_trains_to_its_end_with_the_files_users_and_names_that_its_pods_have(tmp_path: Path) -> None:
    config = load_config(ROOT / "deploy/config/demo.toml", OVERRIDES)
    run = rendered_for("local", tmp_path / "overlay", config)
    with cluster(run, tmp_path) as pods:
        for name in run.pods():
            pods.start(name)
        assert pods.wait_for("prepare") == 0, pods.log_of("prepare")[-3000:]
        for name in ("coordinator", "generator", "verifier", "gateway"):
            pods.wait_until_ready(name)
        for name in run.services:
            if pods.running[name].poll() is None:
                assert pods.asked(name, "livenessProbe"), name
        assert [pods.wait_for(name) for name in ("learner", "prm", "conclude")] == [0, 0, 0], pods.log_of("conclude")[-3000:]
        assert (tmp_path / "volumes/runs/runs/demo/report.html").is_file()
        assert '"ledger_closed": true' in (tmp_path / "volumes/runs/runs/demo/summary.json").read_text(encoding="utf-8")
        # The dashboard has the run's steps.
        (card,) = json.loads(pods.shown("/v1/runs"))["data"]
        assert (card["name"], card["steps_recorded"]) == ("demo", True)
        assert [row["step"] for row in json.loads(pods.shown("/v1/runs/demo"))["rows"] if row["kind"] == "step"] == [1, 2]
        kept = ("gateway", "coordinator", "generator", "verifier", "redis")
        assert [pods.running[name].poll() for name in kept] == [None] * len(kept)
        assert [pods.stop(name) for name in kept] == [0] * len(kept)
