"""The native engine: a warm zygote per profile forks one locked-down process per job."""

import contextlib
import marshal
import os
import socket
import time
from dataclasses import asdict

from oprime_verifier.sandbox.compiled import Builder
from oprime_verifier.sandbox.ending import Facts, ending_of, violations_of
from oprime_verifier.sandbox.inside.stage import MARK_BYTES
from oprime_verifier.sandbox.types import Ending, Job, Process, RunResult, SandboxFailedError
from oprime_verifier.sandbox.zygote_process import JobEnding, ZygoteProcess

REFRESH_JOBS = 5000
"""After so many jobs a zygote is replaced."""
SLACK_S = 10.0
"""Most seconds between a job's deadline and the zygote's word that it ended."""
JOBS_AT_ONCE = 8
"""So many jobs in a row have users of their own."""
STDERR_TAIL_BYTES = 8 * 1024


class NativeSandbox:
    """Implements `Sandbox`."""

    def __init__(self, *, refresh_jobs: int = REFRESH_JOBS, slack_s: float = SLACK_S) -> None:
        self.slack_s = slack_s
        self._refresh_jobs = refresh_jobs
        self._zygotes: dict[str, ZygoteProcess] = {}
        self._last_job = 0
        self._builder = Builder(self.run)

    def start(self, job: Job, channel: socket.socket | None = None) -> Process:
        """Begin a job. Raises SandboxFailedError."""
        if job.language != "python":
            prepared = self._builder.prepare(job)
            if isinstance(prepared, RunResult):
                return EndedProcess(prepared)
            job = prepared
        return self._start(job, channel)

    def _start(self, job: Job, channel: socket.socket | None) -> "NativeProcess":
        zygote = self._zygote(job.profile)
        self._last_job += 1
        process = NativeProcess(self, zygote, self._last_job, job)
        try:
            process.send(channel)
        except SandboxFailedError:
            process.release()
            self.discard(zygote)
            raise
        zygote.jobs += 1
        return process

    def run(self, job: Job) -> RunResult:
        return self.start(job).wait()

    def close(self) -> None:
        self._builder.close()
        for zygote in list(self._zygotes.values()):
            self.discard(zygote)

    def discard(self, zygote: ZygoteProcess) -> None:
        """Kill a zygote, and with it all its jobs; the next job starts another."""
        for profile, known in list(self._zygotes.items()):
            if known is zygote:
                del self._zygotes[profile]
                zygote.close()

    def _zygote(self, profile: str) -> ZygoteProcess:
        zygote = self._zygotes.get(profile)
        if zygote is not None and zygote.jobs >= self._refresh_jobs and not zygote.under_way:
            self.discard(zygote)
            zygote = None
        if zygote is None:
            zygote = self._zygotes[profile] = ZygoteProcess(profile)
        return zygote


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

    def __init__(self, sandbox: NativeSandbox, zygote: ZygoteProcess, number: int, job: Job) -> None:
        self._sandbox = sandbox
        self._zygote = zygote
        self._number = number
        self._job = job
        self._asked = False
        self._result: RunResult | None = None
        self._deadline = time.monotonic() + job.limits.wall_s + sandbox.slack_s
        self._files: list[int] = []
        zygote.under_way += 1
        self._files = [_file(_request(job, os.getpid() * JOBS_AT_ONCE + number % JOBS_AT_ONCE)), _file(job.stdin), _file(b""), _file(b"")]

    def send(self, channel: socket.socket | None) -> None:
        descriptors = [*self._files, *([channel.fileno()] if channel else [])]
        self._zygote.send({"job": self._number, "wall_s": self._job.limits.wall_s}, descriptors)

    def kill(self) -> None:
        """End it now; `wait` still works and says that a signal ended it."""
        if self._result is None and not self._asked:
            self._asked = True
            # A zygote that is gone took its jobs along.
            with contextlib.suppress(SandboxFailedError):
                self._zygote.send({"kill": self._number})

    def wait(self) -> RunResult:
        if self._result is None:
            try:
                self._result = self._collect(self._zygote.ending(self._number, self._deadline))
            except SandboxFailedError:
                self._sandbox.discard(self._zygote)
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
            self._zygote.under_way -= 1
            self._zygote.endings.pop(self._number, None)
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
            profile=f"{self._zygote.profile}/{self._job.profile}",
        )


def _file(content: bytes) -> int:
    """An anonymous file in memory, which a program can seek in and measure as it can a redirected file."""
    fd = os.memfd_create("job")
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _request(job: Job, user: int) -> bytes:
    body = {
        "entry": job.entry,
        "source": job.source,
        "arguments": dict(job.arguments),
        "seed": job.seed,
        "limits": asdict(job.limits),
        "user": user,
    }
    return bytes(MARK_BYTES) + marshal.dumps(body)


def _mark(request: int) -> tuple[bytes, str]:
    mark = os.pread(request, MARK_BYTES, 0)
    return mark[:1], mark[1:].split(b"\0")[0].decode(errors="replace")
