"""A zygote as its supervisor sees it: start, send a job, receive endings, kill."""

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from oprime_verifier.sandbox.forker import Forker

START_S = 30.0
"""Most seconds until a zygote is warm."""
SCRIPT = Path(__file__).with_name("zygote.py")
ENTRIES = ("program", "call", "checker", "execute")
"""Modules of `inside` that may take charge in a child of a zygote for programs."""
TEST_ENTRIES = ("tester", "subject")
"""In a child of a zygote for test source. Each child pays for what its zygote has loaded, and `unittest` is a tenth of that."""


class ZygoteProcess(Forker):
    def __init__(self, profile: str, entries: Sequence[str] = ENTRIES, *, namespaces: bool = True) -> None:
        """Start one and wait until it is warm. Raises SandboxFailedError."""
        self._messages = os.memfd_create("zygote-stderr")
        control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        super().__init__(control)
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
        self.send({"profile": profile, "entries": list(entries), "numpy_path": folders, "readable": readable, "namespaces": namespaces})
        self.layers: dict[str, Any] = json.loads(self.receive(time.monotonic() + START_S))["layers"]
        named = (f"{name}{value if value is not True else ''}" for name, value in self.layers.items() if value)
        self.profile = "+".join(("native", *named))

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        """SIGKILL it with all its children; a hung one could not be asked."""
        super().close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._messages)

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
