"""The native engine: warm zygotes, one per profile and kind of job, fork one locked-down process per job."""

import os
import socket
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from oprime_verifier.sandbox.compiled import Builder
from oprime_verifier.sandbox.native_process import EndedProcess, NativeProcess
from oprime_verifier.sandbox.native_repeated import NativeRepeated
from oprime_verifier.sandbox.repeated import FreshEachTime
from oprime_verifier.sandbox.types import Job, Process, Repeated, RunResult
from oprime_verifier.sandbox.zygote_process import ENTRIES, TEST_ENTRIES, ZygoteProcess

REFRESH_JOBS = 5000
"""After so many jobs a zygote is replaced."""
SLACK_S = 10.0
"""Most seconds between a job's deadline and the zygote's word that it ended."""
JOBS_AT_ONCE = 8
"""So many jobs in a row have users of their own."""


class NativeSandbox:
    """Implements `Sandbox`."""

    def __init__(self, *, refresh_jobs: int = REFRESH_JOBS, slack_s: float = SLACK_S) -> None:
        self.slack_s = slack_s
        self._refresh_jobs = refresh_jobs
        self._zygotes: dict[tuple[str, Sequence[str]], ZygoteProcess] = {}
        """By profile and entry modules."""
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

    def run(self, job: Job) -> RunResult:
        return self.start(job).wait()

    def repeat(self, job: Job, runs: int) -> Repeated:
        if runs < 2 or job.language != "python":
            return FreshEachTime(self, job)
        return NativeRepeated(job, lambda first, control: self._start(first, control, repeated=True), self.slack_s)

    def close(self) -> None:
        self._builder.close()
        for zygote in list(self._zygotes.values()):
            self.discard(zygote)

    def discard(self, zygote: ZygoteProcess) -> None:
        """Kill a zygote, and with it all its jobs; the next job starts another."""
        for kind, known in list(self._zygotes.items()):
            if known is zygote:
                del self._zygotes[kind]
                zygote.close()

    def _start(self, job: Job, channel: socket.socket | None, *, repeated: bool = False) -> NativeProcess:
        zygote = self._zygote(job.profile, TEST_ENTRIES if job.entry in TEST_ENTRIES else ENTRIES)
        self._last_job += 1
        process = NativeProcess(zygote, self._last_job, job, self.slack_s, lambda: self.discard(zygote))
        process.begin(_request(job, os.getpid() * JOBS_AT_ONCE + self._last_job % JOBS_AT_ONCE, repeated), channel)
        return process

    def _zygote(self, profile: str, entries: Sequence[str]) -> ZygoteProcess:
        zygote = self._zygotes.get((profile, entries))
        if zygote is not None and zygote.jobs >= self._refresh_jobs and not zygote.under_way:
            self.discard(zygote)
            zygote = None
        if zygote is None:
            zygote = self._zygotes[profile, entries] = ZygoteProcess(profile, entries)
        return zygote


def _request(job: Job, user: int, repeated: bool) -> dict[str, Any]:
    return {
        "entry": job.entry,
        "source": job.source,
        "arguments": dict(job.arguments),
        "seed": job.seed,
        "limits": asdict(job.limits),
        "user": user,
        "repeated": repeated,
    }
