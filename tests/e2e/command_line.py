"""Runs the `oprime` command as a person does."""

import json
import os
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "deploy" / "config" / "demo.toml"
OPRIME = (sys.executable, "-m", "oprime_cli.main")


def sets(values: Mapping[str, object]) -> list[str]:
    """`--set key=value` for each setting."""
    return [part for key, value in values.items() for part in ("--set", f"{key}={json.dumps(value)}")]


def oprime(*arguments: str, timeout_s: float = 600, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; its output is in the result."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*OPRIME, *arguments], capture_output=True, text=True, timeout=timeout_s, cwd=cwd, env=environment, check=False)


def start_oprime(*arguments: str, log: Path) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own."""
    with log.open("wb") as file:
        return subprocess.Popen(
            [*OPRIME, *arguments], stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )


def metric_rows(run: Path, kind: str) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    if not path.exists():
        return []
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
    return [row for row in rows if row["kind"] == kind]


def summary(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text(encoding="utf-8"))


def resolved(run: Path) -> dict[str, Any]:
    return tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))


def processes_of(run: Path) -> list[psutil.Process]:
    """Every process whose command line names the run's folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if any(str(run) in part for part in process.cmdline()) and process.pid != os.getpid():
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def kill_everything(command: "subprocess.Popen[bytes]", run: Path) -> None:
    """kill -9 of a command and of all its processes: the command first, as it starts again what ends."""
    command.kill()
    command.wait()
    ends = time.monotonic() + 20
    while left := processes_of(run):
        assert time.monotonic() < ends, f"still there: {left}"
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        time.sleep(0.1)
