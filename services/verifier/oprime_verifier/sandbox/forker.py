"""Whoever forks jobs, as its supervisor sees it: send a job, receive endings."""

import marshal
import select
import socket
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from oprime_verifier.sandbox.inside.messages import ENDING
from oprime_verifier.sandbox.types import SandboxFailedError

MAX_MESSAGE_BYTES = 65536


class JobEnding(NamedTuple):
    """As `ENDING` has it."""

    job: int
    status: int
    expired: bool
    cpu_s: float
    wall_s: float
    peak_bytes: int


class ForkerEndedError(SandboxFailedError):
    """It hung up."""


class Forker:
    """A zygote, or the process of a repeated job."""

    def __init__(self, control: socket.socket, profile: str = "") -> None:
        self.profile = profile
        """The engine and the locks it could close, for example `native+landlock7+seccomp`."""
        self.jobs = 0
        """How many it was given."""
        self.under_way: set[int] = set()
        """Those of them that somebody will collect."""
        self._endings: dict[int, JobEnding] = {}
        """Endings that arrived while another was waited for, by job."""
        self._control = control

    def give(self, job: int) -> None:
        """It will be sent this job."""
        self.jobs += 1
        self.under_way.add(job)

    def forget(self, job: int) -> None:
        """Nobody asks for this job's ending any more."""
        self.under_way.discard(job)
        self._endings.pop(job, None)

    def send(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Raises SandboxFailedError."""
        try:
            socket.send_fds(self._control, [marshal.dumps(message)], list(descriptors))
        except OSError as error:
            raise SandboxFailedError(f"the zygote took no message ({error}){self._last_words()}") from error

    def ending(self, job: int, deadline: float) -> JobEnding:
        """Wait for one job's ending until `deadline` on the monotonic clock. Raises SandboxFailedError."""
        while job not in self._endings:
            if self._control.fileno() < 0:
                raise SandboxFailedError("the zygote was given up while this job was under way")
            ended = JobEnding(*ENDING.unpack(self.receive(deadline)))
            if ended.job in self.under_way:
                self._endings[ended.job] = ended
        return self._endings.pop(job)

    def receive(self, deadline: float) -> bytes:
        """One message. Raises SandboxFailedError; ForkerEndedError when there will be none."""
        readable, _, _ = select.select([self._control], [], [], max(deadline - time.monotonic(), 0.0))
        if not readable:
            raise SandboxFailedError("the zygote did not answer in time")
        try:
            body = self._control.recv(MAX_MESSAGE_BYTES)
        except OSError as error:
            raise ForkerEndedError(f"the zygote hung up ({error}){self._last_words()}") from error
        if not body:
            raise ForkerEndedError(f"the zygote ended{self._last_words()}")
        return body

    def close(self) -> None:
        """End it with all its jobs."""
        self._control.close()

    def _last_words(self) -> str:
        return ""
