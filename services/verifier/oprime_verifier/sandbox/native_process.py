"""One job of the native engine, as its supervisor sees it."""

import contextlib
import marshal
import os
import socket
import time
from collections.abc import Callable
from typing import Any

from oprime_verifier.sandbox.ending import Facts, ending_of, violations_of
from oprime_verifier.sandbox.forker import Forker, JobEnding
from oprime_verifier.sandbox.inside.stage import MARK_BYTES
from oprime_verifier.sandbox.types import Ending, Job, RunResult, SandboxFailedError

STDERR_TAIL_BYTES = 8 * 1024


class EndedProcess:
    """Implements `Process` for a job that does not run, as it cannot be built."""

    def __init__(self, result: RunResult) -> None:
        self._result = result

    def wait(self) -> RunResult:
        return self._result

    def kill(self) -> None:
        return


class NativeProcess:
    """Implements `Process`."""

    def __init__(self, forker: Forker, number: int, job: Job, slack_s: float, discard: Callable[[], None]) -> None:
        """`number` is the forker's name for the job; the forker tells within the job's time and `slack_s` seconds that it ended, or
        `discard` is called, which kills the forker.
        """
        self.deadline = time.monotonic() + job.limits.wall_s + slack_s
        """On the monotonic clock: until when `wait` waits."""
        self._forker = forker
        self._number = number
        self._job = job
        self._discard = discard
        self._asked = False
        self._result: RunResult | None = None
        self._files: list[int] = []

    def begin(self, request: dict[str, Any], channel: socket.socket | None) -> None:
        """Raises SandboxFailedError."""
        self._forker.give(self._number)
        self._files = [_file(marshal.dumps(request) if request else b"", at=MARK_BYTES), _file(self._job.stdin), _file(b""), _file(b"")]
        try:
            descriptors = [*self._files, *([channel.fileno()] if channel else [])]
            self._forker.send({"job": self._number, "wall_s": self._job.limits.wall_s}, descriptors)
        except SandboxFailedError:
            self.release()
            self._discard()
            raise

    @property
    def engine(self) -> str:
        return self._forker.profile

    def kill(self) -> None:
        """End it now; `wait` still works and says that a signal ended it."""
        if self._result is None and not self._asked:
            self._asked = True
            # A zygote that is gone took its jobs along.
            with contextlib.suppress(SandboxFailedError):
                self._forker.send({"kill": self._number})

    def wait(self) -> RunResult:
        if self._result is None:
            try:
                self._result = self._collect(self._forker.ending(self._number, self.deadline))
            except SandboxFailedError:
                self._discard()
                raise
            finally:
                self.release()
        return self._result

    def __del__(self) -> None:
        # For one that nobody waited for.
        self.release()

    def release(self) -> None:
        """Close its files; its ending is of no interest any more."""
        if self._files:
            self._forker.forget(self._number)
        for fd in self._files:
            os.close(fd)
        self._files = []

    def _collect(self, ending: JobEnding) -> RunResult:
        request, _, stdout, stderr = self._files
        stage, reason = _mark(request)
        sizes = os.fstat(stdout).st_size, os.fstat(stderr).st_size
        tail = os.pread(stderr, STDERR_TAIL_BYTES, max(sizes[1] - STDERR_TAIL_BYTES, 0))
        facts = Facts(
            stage=stage,
            reason=reason,
            status=ending.status,
            expired=ending.expired,
            asked=self._asked,
            cpu_s=ending.cpu_s,
            peak_bytes=ending.peak_bytes,
            stdout_bytes=sizes[0],
            stderr_bytes=sizes[1],
            stderr=tail,
        )
        kind = ending_of(facts, self._job.limits)
        exited = os.WIFEXITED(facts.status)
        return RunResult(
            ending=kind,
            exit_code=os.WEXITSTATUS(facts.status) if exited else None,
            signal=None if exited else os.WTERMSIG(facts.status),
            stdout=os.pread(stdout, min(sizes[0], self._job.limits.output_bytes), 0),
            stderr=reason.encode() if kind is Ending.COMPILE else tail,
            cpu_s=facts.cpu_s,
            wall_s=ending.wall_s,
            peak_bytes=facts.peak_bytes,
            violations=() if kind is Ending.COMPILE else violations_of(facts),
            profile=f"{self._forker.profile}/{self._job.profile}",
        )


def _file(content: bytes, at: int = 0) -> int:
    """An anonymous file in memory, which a program can seek in and measure as it can a redirected file."""
    fd = os.memfd_create("job")
    view = memoryview(content)
    while view:
        written = os.pwrite(fd, view, at)
        at, view = at + written, view[written:]
    return fd


def _mark(request: int) -> tuple[bytes, str]:
    mark = os.pread(request, MARK_BYTES, 0)
    return mark[:1], mark[1:].partition(b"\0")[0].decode(errors="replace")
