"""The zygote: a warm interpreter that forks one locked-down child per job. Run as a script, never imported.

It holds no gold and no secret, compiles nothing and runs nothing of a model; it takes jobs from its socket, and tells how each ended.
"""

import _sitebuiltins
import builtins
import contextlib
import gc
import importlib
import json
import marshal
import os
import select
import signal
import socket
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MAX_MESSAGE_BYTES = 65536
MAX_DESCRIPTORS = 8
LAST_LOW_FD = 4


def borrow_packages() -> None:
    """Let `oprime_verifier.sandbox.inside` be imported from beside this file, with nothing else of the service in reach."""
    here = Path(__file__).resolve().parent
    for name, folder in (("oprime_verifier", here.parent), ("oprime_verifier.sandbox", here)):
        package = types.ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package


class Zygote:
    def __init__(self, control: socket.socket, locks: Any) -> None:
        from oprime_verifier.sandbox.inside import child, messages

        self._child = child
        self._ending = messages.ENDING
        self._control = control
        self._locks = locks
        self._running: dict[int, tuple[int, float, float]] = {}
        """By pid: job, start, and deadline, both on the monotonic clock."""
        self._expired: set[int] = set()
        self._wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
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
            _kill(pid)

    def _patience_ms(self) -> float | None:
        if not self._running:
            return None
        left = min(deadline for _, _, deadline in self._running.values()) - time.monotonic()
        return max(left * 1000.0, 0.0) + 1.0

    def _receive(self) -> bool:
        body, descriptors, _, _ = socket.recv_fds(self._control, MAX_MESSAGE_BYTES, MAX_DESCRIPTORS)
        if not body:
            return False
        message = marshal.loads(body)  # noqa: S302 - from the supervisor, and cheaper after a fork than JSON
        if "kill" in message:
            for pid, (job, _, _) in self._running.items():
                if job == message["kill"]:
                    _kill(pid)
        else:
            self._start(message, descriptors)
        return True

    def _start(self, message: dict[str, Any], descriptors: list[int]) -> None:
        started = time.monotonic()
        pid = os.fork()
        if pid == 0:
            self._child.run_child(descriptors, self._locks)
        for fd in descriptors:
            os.close(fd)
        self._running[pid] = (message["job"], started, started + message["wall_s"])

    def _expire(self) -> None:
        now = time.monotonic()
        for pid, (_, _, deadline) in self._running.items():
            if now >= deadline and pid not in self._expired:
                self._expired.add(pid)
                _kill(pid)

    def _reap(self) -> None:
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._running:
                self._report(pid, status, usage)

    def _report(self, pid: int, status: int, usage: Any) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        job, started, _ = self._running.pop(pid)
        expired = pid in self._expired
        self._expired.discard(pid)
        cpu_s, wall_s = usage.ru_utime + usage.ru_stime, time.monotonic() - started
        self._control.send(self._ending.pack(job, status, expired, cpu_s, wall_s, usage.ru_maxrss * 1024))


def _kill(pid: int) -> None:
    """With what a compiler started; a child that has just been forked has no group yet."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)


WARM_MODULES = (
    "array", "bisect", "cmath", "collections", "copy", "dataclasses", "datetime", "decimal", "enum", "fractions", "functools", "heapq",
    "io", "itertools", "json", "math", "operator", "queue", "random", "re", "statistics", "string", "struct", "threading", "time",
    "traceback", "typing",
)  # fmt: skip
"""What programs often import, imported once for all of them."""
ENTRIES = ("program", "call", "tester", "subject", "checker", "execute")
"""Modules of `inside` that may take charge in a child."""


@contextlib.contextmanager
def _no_fork_hooks() -> Iterator[None]:
    """Within this, no module can ask to be called in each forked child.

    `random` would seed itself there, as each child does anyway, and `threading` would forget threads, of which a zygote has none;
    together they cost a child a hundred page faults.
    """
    register = os.register_at_fork
    os.register_at_fork = lambda **_: None
    try:
        yield
    finally:
        os.register_at_fork = register


def _warm_up(setup: dict[str, Any]) -> None:
    with _no_fork_hooks():
        for name in WARM_MODULES:
            importlib.import_module(name)
    here = Path(__file__).resolve().parent / "inside"
    for name in ENTRIES:
        if (here / f"{name}.py").exists():
            importlib.import_module(f"oprime_verifier.sandbox.inside.{name}")
    # `-S` leaves out what `site` gives every script.
    for name in ("exit", "quit"):
        setattr(builtins, name, _sitebuiltins.Quitter(name, "Ctrl-D (i.e. EOF)"))
    setattr(builtins, "help", _sitebuiltins._Helper())  # noqa: B010
    if setup["profile"] == "numpy":
        sys.path.extend(setup["numpy_path"])
        importlib.import_module("numpy")
        del sys.path[-len(setup["numpy_path"]) :]


def _occupy_low_descriptors() -> None:
    """So that descriptors that arrive later never collide with the numbers that a child gives them."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= LAST_LOW_FD:
        continue
    os.close(fd)


def _tasks_of_this_user() -> int:
    """Threads and processes, which RLIMIT_NPROC counts together."""
    uid, count = os.getuid(), 0
    for entry in os.scandir("/proc"):
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and entry.stat().st_uid == uid:
                count += len(os.listdir(f"/proc/{entry.name}/task"))  # noqa: PTH208 - counted only
    return count


def main() -> None:
    os.environ.clear()
    borrow_packages()
    from oprime_verifier.sandbox.inside import child, lockdown, profiles

    control = socket.socket(fileno=int(sys.argv[1]))
    setup = marshal.loads(control.recv(MAX_MESSAGE_BYTES))  # noqa: S302 - from the supervisor
    tasks = _tasks_of_this_user()
    in_namespaces = lockdown.enter_namespaces(setup["namespaces"])
    _warm_up(setup)
    _occupy_low_descriptors()
    child.open_streams()
    profile = profiles.profile_of(setup["profile"], setup["readable"])
    locks = lockdown.prepare(profile, tasks=tasks, in_namespaces=in_namespaces)
    control.send(json.dumps({"layers": locks.described()}).encode())
    zygote = Zygote(control, locks)
    gc.collect()
    gc.freeze()
    try:
        zygote.serve()
    finally:
        zygote.close()


if __name__ == "__main__":
    main()
