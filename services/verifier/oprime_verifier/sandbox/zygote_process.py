"""A zygote as its supervisor sees it: start, send a job, receive endings, kill."""

import contextlib
import importlib.util
import json
import marshal
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from oprime_verifier.sandbox.inside.messages import ENDING
from oprime_verifier.sandbox.types import SandboxFailedError

START_S = 30.0
"""Most seconds until a zygote is warm."""
MAX_MESSAGE_BYTES = 65536
SCRIPT = Path(__file__).with_name("zygote.py")


class JobEnding(NamedTuple):
    """As `ENDING` has it."""

    job: int
    status: int
    expired: bool
    cpu_s: float
    wall_s: float
    peak_bytes: int


class ZygoteProcess:
    def __init__(self, profile: str, *, namespaces: bool = True) -> None:
        """Start one and wait until it is warm. Raises SandboxFailedError."""
        self.jobs = 0
        """How many it was given."""
        self.under_way = 0
        """How many of them nobody has collected."""
        self.endings: dict[int, JobEnding] = {}
        """Endings that arrived while another was waited for, by job."""
        self._messages = os.memfd_create("zygote-stderr")
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            # The hash seed is fixed so that a program's order of sets is the same each time; -s -P -E would be -I, which forbids that.
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and script
                [_interpreter(), "-s", "-P", "-S", "-B", "-X", "utf8", str(SCRIPT), str(theirs.fileno())],
                env={"PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"},
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self._messages,
                pass_fds=(theirs.fileno(),), cwd="/", start_new_session=True,
            )  # fmt: skip
        folders = numpy_path()
        readable = [f"{folder}/{name}" for folder in folders for name in ("numpy", "numpy.libs")]
        self._send({"profile": profile, "numpy_path": folders, "readable": readable, "namespaces": namespaces})
        self.layers: dict[str, Any] = json.loads(self._receive_one(time.monotonic() + START_S))["layers"]

    @property
    def profile(self) -> str:
        """The engine and the locks it could close, for example `native+landlock7+seccomp`."""
        named = (f"{name}{value if value is not True else ''}" for name, value in self.layers.items() if value)
        return "+".join(("native", *named))

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        self._send(message, descriptors)

    def ending(self, job: int, deadline: float) -> JobEnding:
        """Wait for one job's ending until `deadline` on the monotonic clock. Raises SandboxFailedError."""
        while job not in self.endings:
            if self._control.fileno() < 0:
                raise SandboxFailedError("the zygote was given up while this job was under way")
            ended = JobEnding(*ENDING.unpack(self._receive_one(deadline)))
            self.endings[ended.job] = ended
        return self.endings.pop(job)

    def close(self) -> None:
        """SIGKILL it with all its children; a hung one could not be asked."""
        self._control.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._messages)

    def _send(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        try:
            socket.send_fds(self._control, [marshal.dumps(message)], list(descriptors))
        except OSError as error:
            raise SandboxFailedError(f"the zygote took no message ({error}){self._last_words()}") from error

    def _receive_one(self, deadline: float) -> bytes:
        readable, _, _ = select.select([self._control], [], [], max(deadline - time.monotonic(), 0.0))
        if not readable:
            raise SandboxFailedError("the zygote did not answer in time")
        try:
            body = self._control.recv(MAX_MESSAGE_BYTES)
        except OSError as error:
            raise SandboxFailedError(f"the zygote hung up ({error}){self._last_words()}") from error
        if not body:
            raise SandboxFailedError(f"the zygote ended{self._last_words()}")
        return body

    def _last_words(self) -> str:
        if self._control.fileno() < 0:
            return ": it was given up"
        size = os.fstat(self._messages).st_size
        said = os.pread(self._messages, 2000, max(size - 2000, 0)).decode(errors="replace").strip()
        return f": {said.splitlines()[-1]}" if said else ""


def numpy_path() -> list[str]:
    """The folder that holds numpy; empty when it is not installed."""
    spec = importlib.util.find_spec("numpy")
    return [str(Path(spec.origin).parent.parent)] if spec and spec.origin else []


def _interpreter() -> str:
    # Without `site` a virtual environment's python is the base one; the base one is named outright, so that its files can be.
    return os.path.realpath(sys.executable)
