"""The wasm engine: Python programs on CPython compiled to WebAssembly, with limits that repeat exactly.

For kernels without the locks of the native engine, and for verdicts that must not depend on how busy a machine is: CPU time is counted in
fuel, clocks go by fuel, `time.sleep` takes no time, random numbers come from the job's seed. Nothing of the host is in reach, since the
component is given three byte streams and a channel. It is about three times slower, and has the standard library alone: no numpy, no
threads (a thread runs when it is started), no subprocess.

Each run is a fresh instance in a forked child of a host process (`wasm_host.py`). An instance in the judge itself would be
ten milliseconds cheaper, but a panic in the runtime aborts its process, which must not be the one that holds the golds.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
from itertools import count
from pathlib import Path
from typing import Any, Self

from oprime_verifier.sandbox.repeated import FreshEachTime
from oprime_verifier.sandbox.types import Ending, Job, Process, Repeated, RunResult, SandboxFailedError
from oprime_verifier.sandbox.wasm_build import Build, find_or_make
from oprime_verifier.sandbox.wasm_calibration import WALL_FACTOR, fuel_for, seconds_of

ENTRIES = ("program", "call", "tester", "subject", "checker")
_HOST = Path(__file__).resolve().parent / "wasm_host.py"
_MAX_MESSAGE_BYTES = 1 << 20
_START_S = 60.0
_GRACE_S = 10.0
"""How much longer than its deadline a run may take to be killed and reaped."""
_MOST_MEMORY_BYTES = (1 << 32) - (1 << 16)
"""What 32-bit addresses reach."""
_NO_MEMORY = (b"MemoryError", b"OverflowError: cannot fit 'int' into an index-sized integer")
"""How a program ends that asked for more: the second where a native interpreter's 64-bit sizes would still have held the number."""


class WasmSandbox:
    """Implements `Sandbox`. The first use builds the component where the user's cache has none, which takes half a minute."""

    def __init__(self, build: Build | None = None) -> None:
        """`build`: one to use; None for that of the installed packages."""
        self.build = build
        self._host: _Host | None = None
        self._jobs = count(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, job: Job, channel: socket.socket | None = None) -> Process:
        _refuse_foreign(job)
        if self.build is None:
            self.build = find_or_make()
        if self._host is None or not self._host.alive:
            self.close()
            self._host = _Host(self.build)
        return self._host.start(next(self._jobs), job, channel)

    def run(self, job: Job) -> RunResult:
        return self.start(job).wait()

    def repeat(self, job: Job, runs: int) -> Repeated:
        del runs
        return FreshEachTime(self, job)

    def close(self) -> None:
        if self._host is not None:
            self._host.close()
            self._host = None


def _refuse_foreign(job: Job) -> None:
    if job.language != "python" or job.profile != "bare" or job.entry not in ENTRIES:
        raise SandboxFailedError(
            f"the wasm engine cannot run language {job.language!r}, profile {job.profile!r}, entry {job.entry!r}: "
            f"it runs Python with the profile `bare` and the entries {', '.join(ENTRIES)}; use the native engine"
        )


class _Host:
    def __init__(self, built: Build) -> None:
        self._built = built
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and script
                [sys.executable, "-I", "-S", str(_HOST), str(theirs.fileno())],
                pass_fds=[theirs.fileno()], env={}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            )  # fmt: skip
        self._begin()

    def _begin(self) -> None:
        self._control.settimeout(_START_S)
        try:
            self._control.send(json.dumps({"path": sys.path, "component": str(self._built.code)}).encode())
            answer = json.loads(self._control.recv(_MAX_MESSAGE_BYTES) or b"{}")
        except (OSError, ValueError) as error:
            self.close()
            raise SandboxFailedError(f"the host process of the wasm engine did not start: {error}") from error
        if "ready" not in answer:
            self.close()
            raise SandboxFailedError(f"the host process of the wasm engine did not start: {answer.get('failed', 'it ended')}")

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def start(self, number: int, job: Job, channel: socket.socket | None) -> "_Run":
        ours, theirs = os.pipe2(os.O_CLOEXEC)
        run = _Run(self, number, job, ours, self._built.component_hash)
        wall_s = job.limits.wall_s * WALL_FACTOR
        descriptors = [theirs, _file("request", self._request(job, channel)), _file("stdin", job.stdin), *run.files]
        passed = descriptors if channel is None else [*descriptors, channel.fileno()]
        try:
            socket.send_fds(self._control, [json.dumps({"job": number, "wall_s": wall_s}).encode()], passed)
        except OSError as error:
            run.discard()
            raise SandboxFailedError(f"the host process of the wasm engine is gone: {error}") from error
        finally:
            for fd in descriptors[:3]:
                os.close(fd)
        return run

    def _request(self, job: Job, channel: socket.socket | None) -> bytes:
        limits = job.limits
        inside = {
            "entry": job.entry, "source": job.source, "arguments": dict(job.arguments), "seed": job.seed, "channel": channel is not None,
        }  # fmt: skip
        request = {
            "job": inside,
            "seed": job.seed,
            "fuel": fuel_for(limits.cpu_s),
            "wall_s": limits.wall_s,
            "memory_bytes": min(limits.memory_bytes + self._built.baseline_bytes, _MOST_MEMORY_BYTES),
            "output_bytes": limits.output_bytes,
        }
        return json.dumps(request).encode()

    def kill(self, number: int) -> None:
        try:
            self._control.send(json.dumps({"kill": number}).encode())
        except OSError:
            return

    def close(self) -> None:
        self._control.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class _Run:
    """One run under way."""

    def __init__(self, host: _Host, number: int, job: Job, ended: int, component_hash: str) -> None:
        self._host = host
        self._number = number
        self._job = job
        self._ended = ended
        self._result: RunResult | None = None
        self._profile = f"wasm-{component_hash[:12]}/{job.profile}"
        self.files = [_file(name) for name in ("stdout", "stderr", "report")]
        self._open = [ended, *self.files]

    def wait(self) -> RunResult:
        if self._result is None:
            if not self._open:
                raise SandboxFailedError("a run of the wasm engine failed before")
            try:
                self._result = self._judge(self._end())
            finally:
                self.discard()
        return self._result

    def kill(self) -> None:
        self._host.kill(self._number)

    def discard(self) -> None:
        while self._open:
            os.close(self._open.pop())

    def _end(self) -> dict[str, Any]:
        patience_s = self._job.limits.wall_s * WALL_FACTOR + _GRACE_S
        ready, _, _ = select.select([self._ended], [], [], patience_s)
        body = os.read(self._ended, _MAX_MESSAGE_BYTES) if ready else b""
        if not body:
            raise SandboxFailedError("the host process of the wasm engine ended or hung during a run")
        return json.loads(body)

    def _judge(self, end: dict[str, Any]) -> RunResult:
        stdout, stderr, report = (_content(fd) for fd in self.files)
        known: dict[str, Any] = {"stdout": stdout, "stderr": stderr, "peak_bytes": end["peak_bytes"], "profile": self._profile}
        if report:
            facts = json.loads(report)
            if facts["how"] == "broken":
                raise SandboxFailedError(f"the wasm engine failed: {facts['trap']}")
            cpu_s = seconds_of(facts["fuel"])
            times = {"fuel": facts["fuel"], "cpu_s": cpu_s, "wall_s": cpu_s + facts["paused_s"]}
            return RunResult(**{**known, **times, **_ending(facts, stderr)})
        times = {"cpu_s": end["cpu_s"], "wall_s": end["wall_s"]}
        return RunResult(**known, **times, **_sudden_ending(end))


def _sudden_ending(end: dict[str, Any]) -> dict[str, Any]:
    """Of a process that could not report."""
    if end["expired"]:
        return {"ending": Ending.TIME}
    if os.WIFSIGNALED(end["status"]):
        return {"ending": Ending.SIGNALLED, "signal": os.WTERMSIG(end["status"])}
    raise SandboxFailedError("a run of the wasm engine ended without a report")


def _ending(report: dict[str, Any], stderr: bytes) -> dict[str, Any]:
    if report["stage"] == "C":
        return {"ending": Ending.COMPILE, "stderr": report["reason"].encode()}
    if report["how"] == "output":
        return {"ending": Ending.OUTPUT}
    if report["how"] == "late" or "fuel" in report["trap"]:
        return {"ending": Ending.TIME}
    if report["how"] == "trap":
        return {"ending": Ending.SIGNALLED, "signal": _signal(report["trap"])}
    return _exit(report["code"], stderr)


def _exit(code: int, stderr: bytes) -> dict[str, Any]:
    if code < 0:
        return {"ending": Ending.SIGNALLED, "signal": -code}
    if code != 0 and stderr.rstrip().rpartition(b"\n")[2].startswith(_NO_MEMORY):
        return {"ending": Ending.MEMORY}
    return {"ending": Ending.EXITED, "exit_code": code}


def _signal(trap: str) -> int:
    """The signal with which a native interpreter would have ended."""
    return signal.SIGABRT if "unreachable" in trap else signal.SIGSEGV


def _file(name: str, content: bytes = b"") -> int:
    fd = os.memfd_create(f"oprime-{name}", os.MFD_CLOEXEC)
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]
    return fd


def _content(fd: int) -> bytes:
    size = os.fstat(fd).st_size
    return os.pread(fd, size, 0)
