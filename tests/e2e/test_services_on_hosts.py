"""The layout of a cluster on one machine: every process on a host of its own, certificates everywhere, a user of Redis for each service.

Each host is cut off for a while; the run must end as if nothing had been.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from certificates import Authority
from e2e.command_line import ROOT, metric_rows
from network_namespaces import Host, hosts, needs_hosts
from oprime.runtime.settings import TlsSection
from redis_with_users import has_tls, redis_with_users

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.redis,
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    needs_hosts(cutting=True),
    pytest.mark.skipif(not has_tls(), reason="needs a redis-server that was built with TLS (Debian: redis-server)"),
]

CUT_S = 20.0
STEPS = 100
GENERATORS, VERIFIERS = ("generator-0", "generator-1"), ("verifier-0", "verifier-1", "verifier-2")
ONE_OF_A_KIND = ("coordinator", "prm", "learner", "gateway")
SERVICES = (*ONE_OF_A_KIND, *GENERATORS, *VERIFIERS)
ROUNDS = (
    ("generator-0", "verifier-0", "gateway"),
    ("coordinator",),
    ("prm", "generator-1"),
    ("learner", "verifier-1"),
    ("redis", "verifier-2"),
)
"""Who is cut off at the same time. In the first round the others go on with the work; in the rest the run stands still."""
PORTS = {"coordinator": 50051, "generator": 50052, "verifier": 50053, "prm": 50054, "learner": 50055, "gateway": 8080}
REDIS_PORT = 6379
KEY = "a-key-for-the-gateway"
RESTARTS = 1
"""The exit code after which a platform starts a service again."""

ASK_GATEWAY = """
import sys, urllib.request
request = urllib.request.Request("http://gateway:8080/readyz")
print(urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30).read().decode())
"""
ASK_PLAINLY = """
import sys
from oprime_cli.running.health import grpc_health
print([name for name in sys.argv[1:] if grpc_health(name)])
"""
AUDIT = """
import asyncio, json, pathlib, sys
from oprime_cli.run_config import RunConfig
from oprime_cli.running.audit import audit
found = asyncio.run(audit(RunConfig.load(pathlib.Path(sys.argv[1]))))
print(json.dumps({"findings": found.findings, "counts": found.counts}))
"""
"""What `oprime ledger` does."""
ASK_REDIS_PLAINLY = "import redis; redis.Redis('redis', socket_timeout=2).ping()"


class Cluster:
    """The hosts, and the processes on them."""

    def __init__(self, folder: Path, made: dict[str, Host], authority: Authority, model: Path) -> None:
        self.folder = folder
        self.run = folder / "runs" / "hosts"
        self.hosts = made
        self._authority = authority
        self._model = model
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.restarts = 0

    def certificates(self, host: str) -> TlsSection:
        """With the names by which others reach the host: its own, and that of its service."""
        return self._authority.issue(host, host, host.partition("-")[0])

    def settings(self, host: str) -> dict[str, Any]:
        tls = {name: str(path) for name, path in self.certificates(host).files.items()}
        return {
            "run": {"name": "hosts", "directory": str(self.run.parent), "steps": STEPS, "evaluate_every": 0, "checkpoint_every": 5},
            "endpoints": {"bind": "0.0.0.0", "tls": tls, **{name: f"{name}:{port}" for name, port in PORTS.items()}},  # noqa: S104
            "queue": {
                "url": f"rediss://redis:{REDIS_PORT}/0",
                "username": "{service}",
                "password_file": str(self.folder / "passwords" / "{service}"),
                "tls": tls,
                "lease_s": 5.0,
            },
            "model": {"path": str(self._model)},
            "tasks": {"source": "chain", "chain": {"operations": 2, "heldout_problems": 8}},
            "sampling": {"group_size": 4, "max_prompt_tokens": 16, "max_response_tokens": 16},
            "coordinator": {"groups_per_batch": 8},
            "generator": {"backend": "transformers"},
            "prm": {"learning_rate": 1e-3, "beta": 0.5},
            "learner": {"learning_rate": 1e-4},
            "gateway": {"api_keys_file": str(self.folder / "keys")},
        }

    def write_settings(self, host: str) -> Path:
        path = self.folder / f"{host}.toml"
        path.write_text(tomli_w.dumps(self.settings(host)), encoding="utf-8")
        return path

    def start(self, name: str) -> None:
        module = f"oprime_{name.partition('-')[0]}"
        command = self.hosts[name].command(sys.executable, "-m", module, self.folder / f"{name}.toml")
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(command, stdout=log, stderr=log, env=environment(), cwd=ROOT)

    def keep_up(self) -> None:
        """What a platform does: start again what says that this may help. Anything else must not end."""
        for name, process in list(self._processes.items()):
            code = process.poll()
            if code is not None:
                assert code == RESTARTS, f"{name} ended with {code}: {self.log(name)}"
                self.restarts += 1
                self.start(name)

    def wait(self, seconds: float) -> None:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            self.keep_up()
            time.sleep(0.5)

    def wait_for_step(self, step: int, timeout_s: float) -> None:
        ends = time.monotonic() + timeout_s
        while self.steps < step:
            self.keep_up()
            assert time.monotonic() < ends, f"{self.steps} steps, not {step}, after {timeout_s} s: {self.log('coordinator')}"
            time.sleep(0.5)

    @property
    def steps(self) -> int:
        return len(metric_rows(self.run, "step"))

    def ask(self, host: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run Python on a host."""
        command = self.hosts[host].command(sys.executable, *words)
        return subprocess.run(command, capture_output=True, text=True, env=environment(), cwd=ROOT, timeout=200, check=False)

    def listening(self, host: str) -> set[int]:
        """Ports of the host that others can reach."""
        found: set[int] = set()
        for table in ("tcp", "tcp6"):
            command = self.hosts[host].command("cat", f"/proc/net/{table}")
            rows = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[1:]
            for row in rows:
                _, local, _, state, *_ = row.split()
                address, _, port = local.partition(":")
                if state == "0A" and address not in ("0100007F", "00000000000000000000000001000000"):
                    found.add(int(port, 16))
        return found

    def log(self, name: str) -> str:
        return "\n".join((self.folder / f"{name}.log").read_text(encoding="utf-8").splitlines()[-20:])

    def stop(self) -> None:
        for process in self._processes.values():
            process.terminate()
        for name, process in self._processes.items():
            try:
                assert process.wait(60) == 0, f"{name}: {self.log(name)}"
            finally:
                process.kill()
        self._processes.clear()

    def kill(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture
def cluster(tmp_path: Path, starting_model: Path) -> Iterator[Cluster]:
    tmp_path.chmod(0o700)
    (tmp_path / "keys").write_text(KEY, encoding="utf-8")
    names = ("redis", *SERVICES, "operator")
    with contextlib.ExitStack() as closing:
        made = closing.enter_context(hosts(names, also_known_as={"generator": GENERATORS, "verifier": VERIFIERS}))
        cluster = Cluster(tmp_path, made, Authority(tmp_path), starting_model)
        for name in (*SERVICES, "operator"):
            cluster.write_settings(name)
        listed = subprocess.run(
            [sys.executable, "-m", "oprime_cli.main", "redis-acl", tmp_path / "operator.toml"], capture_output=True, text=True, check=True
        )
        redis = redis_with_users(
            tmp_path / "redis",
            listed.stdout,
            address=made["redis"].address,
            port=REDIS_PORT,
            tls=cluster.certificates("redis"),
            command=made["redis"].command,
        )
        closing.enter_context(redis)
        closing.callback(cluster.kill)
        yield cluster


def test_a_run_whose_hosts_are_cut_off_one_after_another_loses_nothing(cluster: Cluster) -> None:
    for name in SERVICES:
        cluster.start(name)
    cluster.wait_for_step(3, 600)
    nobody_gets_in_without_a_certificate(cluster)
    for names in ROUNDS:
        with contextlib.ExitStack() as healing:
            for name in names:
                healing.enter_context(cluster.hosts[name].cut_off())
            cluster.wait(CUT_S)
        assert cluster.steps < STEPS, f"the run was over before {names} could be cut off: give it more steps"
        # Everybody is back before the next one goes.
        cluster.wait_for_step(cluster.steps + 1, 120)
    cluster.wait_for_step(STEPS, 600)
    ready = cluster.ask("operator", "-c", ASK_GATEWAY)
    assert '"ready":true' in ready.stdout, ready.stdout + ready.stderr
    # What the last step leaves behind is released with its checkpoint.
    cluster.wait(5)
    cluster.stop()
    assert [row["step"] for row in metric_rows(cluster.run, "step")] == list(range(1, STEPS + 1))
    ledger = json.loads(cluster.ask("operator", "-c", AUDIT, str(cluster.folder / "operator.toml")).stdout)
    assert ledger["findings"] == []
    counts = ledger["counts"]
    assert counts["issued"] > 0
    assert (counts.get("live", 0), [state for state in counts if state.startswith("dead")]) == (0, []), counts


def nobody_gets_in_without_a_certificate(cluster: Cluster) -> None:
    plain = cluster.ask("operator", "-c", ASK_PLAINLY, *(f"{name}:{port}" for name, port in PORTS.items() if name != "gateway"))
    assert plain.stdout == "[]\n", plain.stderr
    assert cluster.ask("operator", "-c", ASK_REDIS_PLAINLY).returncode != 0
    for name in SERVICES:
        assert cluster.listening(name) == {PORTS[name.partition("-")[0]]}, name
    assert cluster.listening("redis") == {REDIS_PORT}
