"""Fork a child per job that the supervisor sends, watch its time, and tell how it ended."""

import contextlib
import marshal
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from typing import Any, NoReturn

from oprime_verifier.sandbox.inside.messages import ENDING

MAX_MESSAGE_BYTES = 65536
MAX_DESCRIPTORS = 8


class Forking:
    def __init__(self, control: socket.socket, become: Callable[[list[int]], NoReturn], *, groups: bool) -> None:
        """`become` takes charge in a child, with the descriptors that came with the job; `groups`: each child leads a process group,
        which ends with it.
        """
        self._control = control
        self._become = become
        self._groups = groups
        self._running: dict[int, tuple[int, float, float]] = {}
        """By pid: job, start, and deadline, both on the monotonic clock."""
        self._expired: set[int] = set()
        self._wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def serve(self) -> None:
        """Until the supervisor hangs up; then nothing that runs is left."""
        try:
            self._serve()
        finally:
            for pid in self._running:
                _kill(pid)

    def _serve(self) -> None:
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
            self._become(descriptors)
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
        if self._groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        job, started, _ = self._running.pop(pid)
        expired = pid in self._expired
        self._expired.discard(pid)
        cpu_s, wall_s = usage.ru_utime + usage.ru_stime, time.monotonic() - started
        self._control.send(ENDING.pack(job, status, expired, cpu_s, wall_s, usage.ru_maxrss * 1024))


def _kill(pid: int) -> None:
    """With what a compiler started; a child that has just been forked has no group yet."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)
