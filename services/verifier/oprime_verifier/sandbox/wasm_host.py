"""The host: loads the compiled component once and forks one child per run. Run as a script, never imported.

Forking, and the page faults of a fresh process, cost about ten milliseconds per run. For that, a defect of the WebAssembly
runtime ends one child and no judge, the kernel reports
time and memory per run, a child can be killed whatever it does, and several runs go on at once.
"""

import ctypes
import gc
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from typing import Any, NoReturn

MAX_MESSAGE_BYTES = 1 << 20
MAX_DESCRIPTORS = 8
_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38


class Host:
    def __init__(self, control: socket.socket, setup: dict[str, Any]) -> None:
        from pathlib import Path

        from oprime_verifier.sandbox import wasm_instance

        self._wasm = wasm_instance
        self._control = control
        self._engine = wasm_instance.make_engine()
        self._component = wasm_instance.load(self._engine, Path(setup["component"]))
        self._running: dict[int, tuple[int, int, float, float]] = {}
        """By pid: job, where its end is told, start and deadline on the monotonic clock."""
        self._expired: set[int] = set()
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def serve(self) -> None:
        """Until the supervisor hangs up."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        while True:
            for fd, _ in poll.poll(self._patience_ms()):
                if fd == self._wake_read:
                    os.read(self._wake_read, 4096)
                elif not self._receive():
                    return
            self._expire()
            self._reap()

    def close(self) -> None:
        for pid in self._running:
            os.kill(pid, signal.SIGKILL)

    def _patience_ms(self) -> float | None:
        if not self._running:
            return None
        left = min(deadline for *_, deadline in self._running.values()) - time.monotonic()
        return max(left * 1000.0, 0.0) + 1.0

    def _receive(self) -> bool:
        body, descriptors, _, _ = socket.recv_fds(self._control, MAX_MESSAGE_BYTES, MAX_DESCRIPTORS)
        if not body:
            return False
        message = json.loads(body)
        if "kill" in message:
            for pid, (job, *_) in self._running.items():
                if job == message["kill"]:
                    os.kill(pid, signal.SIGKILL)
        else:
            self._start(message, descriptors)
        return True

    def _start(self, message: dict[str, Any], descriptors: list[int]) -> None:
        started = time.monotonic()
        ended, request, stdin, stdout, stderr, report, *channel = descriptors
        host = os.getpid()
        pid = os.fork()
        if pid == 0:
            files = self._wasm.Files(stdin=stdin, stdout=stdout, stderr=stderr, report=report, channel=channel[0] if channel else None)
            self._run(host, request, ended, files)
        for fd in descriptors[1:]:
            os.close(fd)
        self._running[pid] = (message["job"], ended, started, started + message["wall_s"])

    def _run(self, host: int, request: int, ended: int, files: Any) -> NoReturn:
        """In the child."""
        try:
            self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            self._libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            if os.getppid() != host:
                os._exit(1)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            body = os.pread(request, os.fstat(request).st_size, 0)
            self._close_own((request, ended))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            self._wasm.Run(self._engine, self._component, json.loads(body), files).go()
        except BaseException as error:  # noqa: BLE001 - told to the supervisor, whatever it is
            os.write(files.report, json.dumps({"how": "broken", "trap": f"{type(error).__name__}: {error}"}).encode())
        finally:
            os._exit(1)

    def _close_own(self, also: tuple[int, ...]) -> None:
        """In the child: what belongs to the host or to other runs. The runtime's own descriptor of the component stays."""
        self._control.close()
        for fd in (*also, self._wake_read, self._wake_write, *(ended for _, ended, *_ in self._running.values())):
            os.close(fd)

    def _expire(self) -> None:
        now = time.monotonic()
        for pid, (*_, deadline) in self._running.items():
            if now >= deadline and pid not in self._expired:
                self._expired.add(pid)
                os.kill(pid, signal.SIGKILL)

    def _reap(self) -> None:
        while self._running:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
            if pid == 0:
                return
            _, ended, started, _ = self._running.pop(pid)
            end = {
                "status": status,
                "expired": pid in self._expired,
                "cpu_s": usage.ru_utime + usage.ru_stime,
                "wall_s": time.monotonic() - started,
                "peak_bytes": usage.ru_maxrss * 1024,
            }
            self._expired.discard(pid)
            _tell(ended, end)


def _tell(ended: int, end: dict[str, Any]) -> None:
    try:
        os.write(ended, json.dumps(end).encode())
    except BrokenPipeError:
        pass
    finally:
        os.close(ended)


def _raise_soft_limits(stack_bytes: int) -> None:
    """The judge bounds its own memory and time; the component reserves address space that it never uses, and lives longer."""
    for kind in (resource.RLIMIT_AS, resource.RLIMIT_CPU):
        hardest = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (hardest, hardest))
    _, hardest = resource.getrlimit(resource.RLIMIT_STACK)
    resource.setrlimit(resource.RLIMIT_STACK, (stack_bytes if hardest == resource.RLIM_INFINITY else min(stack_bytes, hardest), hardest))


def main() -> None:
    os.environ.clear()
    control = socket.socket(fileno=int(sys.argv[1]))
    setup = json.loads(control.recv(MAX_MESSAGE_BYTES))
    sys.path[:] = setup["path"]
    _raise_soft_limits(64 * 1024 * 1024)
    try:
        host = Host(control, setup)
    except Exception as error:  # noqa: BLE001 - told to the supervisor, whatever it is
        control.send(json.dumps({"failed": f"{type(error).__name__}: {error}"[:4000]}).encode())
        return
    control.send(json.dumps({"ready": True}).encode())
    gc.collect()
    gc.freeze()
    try:
        host.serve()
    finally:
        host.close()


if __name__ == "__main__":
    main()
