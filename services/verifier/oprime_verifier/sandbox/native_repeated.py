"""A repeated job of the native engine: one process closes the locks and compiles, then forks a child per run."""

import contextlib
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from oprime_verifier.sandbox.forker import Forker, ForkerEndedError
from oprime_verifier.sandbox.native_process import EndedProcess, NativeProcess
from oprime_verifier.sandbox.repeated import once
from oprime_verifier.sandbox.types import Job, Process, RunResult, SandboxFailedError

RUNS_OF_ONE = 256
"""After so many runs the process is replaced: what forking costs it counts against its CPU limit."""
LIFE_S = 86400.0
"""The process waits while outputs are judged. It ends with its supervisor, and its children have limits of their own."""


class NativeRepeated:
    """Implements `Repeated`."""

    def __init__(self, job: Job, begin: Callable[[Job, socket.socket], NativeProcess], slack_s: float) -> None:
        """`begin` starts a process that is asked for runs over the socket."""
        self._job = job
        self._begin = begin
        self._slack_s = slack_s
        self._process: NativeProcess | None = None
        self._forker: Forker | None = None
        self._refused: RunResult | None = None

    def start(
        self, stdin: bytes = b"", channel: socket.socket | None = None, *, wall_s: float, arguments: Mapping[str, Any] | None = None
    ) -> Process:
        if self._forker is not None and self._forker.jobs >= RUNS_OF_ONE and not self._forker.under_way:
            self.close()
        forker = self._forker or self._prepare(wall_s)
        if isinstance(forker, RunResult):
            return EndedProcess(forker)
        process = NativeProcess(forker, forker.jobs, once(self._job, stdin, wall_s, None), self._slack_s, self.close)
        process.begin(dict(arguments or {}), channel)
        return process

    def close(self) -> None:
        if self._forker is not None and self._process is not None:
            self._forker.close()
            # It ends by itself, unless it hangs. A zygote that is gone took it along.
            self._process.kill()
            self._process.deadline = time.monotonic() + self._slack_s
            with contextlib.suppress(SandboxFailedError):
                self._process.wait()
        self._forker = self._process = None

    def _prepare(self, wall_s: float) -> Forker | RunResult:
        """A source that does not compile never will."""
        if self._refused is not None:
            return self._refused
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                self._process = self._begin(replace(self._job, limits=replace(self._job.limits, wall_s=LIFE_S)), theirs)
        except SandboxFailedError:
            ours.close()
            raise
        self._forker = Forker(ours, self._process.engine)
        try:
            self._forker.receive(time.monotonic() + wall_s + self._slack_s)
        except ForkerEndedError:
            try:
                self._refused = self._process.wait()
            finally:
                self.close()
            return self._refused
        except SandboxFailedError:
            self.close()
            raise
        return self._forker
