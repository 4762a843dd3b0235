"""A repeated job for engines that can do nothing ahead."""

import socket
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from oprime_verifier.sandbox.types import Job, Process, Sandbox


class FreshEachTime:
    """Implements `Repeated` with a whole job each time."""

    def __init__(self, sandbox: Sandbox, job: Job) -> None:
        self._sandbox = sandbox
        self._job = job

    def start(
        self, stdin: bytes = b"", channel: socket.socket | None = None, *, wall_s: float, arguments: Mapping[str, Any] | None = None
    ) -> Process:
        return self._sandbox.start(once(self._job, stdin, wall_s, arguments), channel)

    def close(self) -> None:
        return


def once(job: Job, stdin: bytes, wall_s: float, arguments: Mapping[str, Any] | None) -> Job:
    """One run of a repeated job."""
    return replace(job, stdin=stdin, limits=replace(job.limits, wall_s=wall_s), arguments={**job.arguments, **(arguments or {})})
