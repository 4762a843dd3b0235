"""The Redis of deploy/k8s for real: its settings, its users, how the kubelet asks for its health, and certificates that are renewed."""

import os
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
import yaml
from redis.exceptions import NoPermissionError

from certificates import Authority
from kubernetes_manifests import ROOT, Manifest, Rendered, main_container, rendered
from oprime.adapters.local_redis import find_server
from oprime.adapters.redis_streams import GROUP, stream_key
from oprime.ports.streams import ROLLOUTS, TICKETS
from oprime_cli.kubernetes.secrets import new_secrets
from redis_with_users import free_port, has_tls

pytestmark = [pytest.mark.e2e, pytest.mark.redis]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A pod's containers as processes of this machine: its places are in a folder, its port is a free one."""

    folder: Path
    port: int

    def words(self, command: list[str]) -> list[str]:
        """A container's command as it runs here, with this machine's programs."""
        known = {"6379": str(self.port), "redis-server": str(find_server())}
        return [known.get(word, self._placed(word).replace("redis-cli ", f"redis-cli -p {self.port} ")) for word in command]

    def _placed(self, text: str) -> str:
        for place in ("/data", "/etc/redis", "/run/secrets"):
            text = re.sub(rf"(?<![\w.]){place}\b", f"{self.folder}{place}", text)
        return text

    def write(self, place: str, text: str) -> None:
        path = Path(f"{self.folder}{place}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self._placed(text), encoding="utf-8")

    def asked(self, probe: Manifest) -> bool:
        """Whether a probe's command says yes."""
        programs = f"{Path(find_server()).parent}:{os.environ['PATH']}"
        return subprocess.run(self.words(probe["exec"]["command"]), env={**os.environ, "PATH": programs}, check=False).returncode == 0


def secrets_of(run: Rendered) -> dict[str, dict[str, str]]:
    return {manifest["metadata"]["name"]: manifest["stringData"] for manifest in yaml.safe_load_all(new_secrets(run.settings))}


@contextmanager
def serving(run: Rendered, pod: Pod, users: str) -> Iterator[Manifest]:
    """Redis as the manifests start it; gives its container."""
    container = main_container(run.pods()["redis"])
    Path(f"{pod.folder}/data").mkdir()
    pod.write("/etc/redis/redis.conf", (ROOT / "deploy/k8s/base/redis.conf").read_text(encoding="utf-8"))
    pod.write("/run/secrets/redis/users.acl", users)
    with subprocess.Popen(
        pod.words([*container["command"], *container["args"], *(["--port", "6379"] if "tls" not in run.features else [])])
    ) as process:
        try:
            ends = time.monotonic() + 20
            while not pod.asked(container["startupProbe"]):
                assert process.poll() is None
                assert time.monotonic() < ends
                time.sleep(0.05)
            yield container
            process.terminate()
            # Asked to stop, it stops: it is the container's first process.
            assert process.wait(10) == 0
        finally:
            process.kill()


def test_redis_starts_with_its_users_and_tells_the_kubelet_that_it_is_ready(tmp_path: Path) -> None:
    run, pod = rendered("local"), Pod(folder=tmp_path, port=free_port())
    secrets = secrets_of(run)
    with serving(run, pod, secrets["redis-users"]["users.acl"]) as container:
        assert pod.asked(container["readinessProbe"])
        nobody, probe = (redis.Redis(port=pod.port, username=name, password="-") for name in ("default", "probe"))
        with closing(nobody), pytest.raises(redis.AuthenticationError):
            nobody.ping()
        with closing(probe), pytest.raises(NoPermissionError):
            probe.get("x")
        renewer = redis.Redis(port=pod.port, username="renew", password=secrets["redis-passwords"]["renew"])
        with closing(renewer), pytest.raises(NoPermissionError):
            renewer.config_get("*")


def test_keda_may_count_the_streams_that_it_scales_by_and_read_none(tmp_path: Path) -> None:
    run, pod = rendered("local"), Pod(folder=tmp_path, port=free_port())
    secrets = secrets_of(run)
    name, passwords = run.settings.run.name, secrets["redis-passwords"]
    with serving(run, pod, secrets["redis-users"]["users.acl"]):
        tickets, rollouts = stream_key(name, TICKETS), stream_key(name, ROLLOUTS)
        with closing(redis.Redis(port=pod.port, username=passwords["scaler-name"], password=passwords["scaler"])) as scaler:
            assert scaler.xlen(tickets) == 0
            assert scaler.info("server")["redis_version"]
            # There is none yet; a stream that is not there is no reason to be refused.
            with pytest.raises(redis.ResponseError, match="no such key"):
                scaler.xinfo_groups(rollouts)
            with pytest.raises(NoPermissionError):
                scaler.xreadgroup(GROUP, "keda", {rollouts: ">"})


@pytest.mark.skipif(not has_tls(), reason="this machine's redis-server cannot encrypt")
def test_redis_takes_a_renewed_certificate_without_a_restart(tmp_path: Path) -> None:
    run, pod = rendered("large"), Pod(folder=tmp_path, port=free_port())
    secrets = secrets_of(run)
    made = tmp_path / "made"
    made.mkdir()
    authority = Authority(made)

    def issue() -> bytes:
        files = authority.issue("redis", "redis").files
        for name, key in (("tls.crt", "certificate_file"), ("tls.key", "key_file"), ("ca.crt", "authority_file")):
            pod.write(f"/run/secrets/tls/{name}", files[key].read_text(encoding="utf-8"))
        return ssl.PEM_cert_to_DER_cert((made / "redis.crt").read_text(encoding="utf-8"))

    def shown() -> bytes | None:
        context = ssl.create_default_context(cafile=str(authority.file))
        context.load_cert_chain(made / "redis.crt", made / "redis.key")
        with context.wrap_socket(socket.create_connection(("127.0.0.1", pod.port)), server_hostname="redis") as connection:
            return connection.getpeercert(binary_form=True)

    first = issue()
    pod.write("/run/secrets/renew/password", secrets["redis-passwords"]["renew"])
    renew = next(container for container in run.pods()["redis"]["spec"]["containers"] if container["name"] == "renew")
    words = [word.replace("sleep 60", "sleep 0.1") for word in pod.words(renew["command"])]
    programs = f"{Path(find_server()).parent}:{os.environ['PATH']}"
    with serving(run, pod, secrets["redis-users"]["users.acl"]), subprocess.Popen(words, env={**os.environ, "PATH": programs}) as renewing:
        assert shown() == first
        time.sleep(0.5)
        second = issue()
        ends = time.monotonic() + 20
        while shown() != second:
            assert time.monotonic() < ends
            time.sleep(0.1)
        renewing.terminate()
        assert renewing.wait(10) == 0
