"""A process for proofs: forked from this one, without its files and environment, limited, and killed at a deadline.

A fork costs milliseconds because sympy is imported before it; killing it is the one timeout that always works, from any thread.
"""

import contextlib
import gc
import json
import os
import resource
import select
import signal
import struct
import sys
import threading
import time
from typing import Any

from oprime_verifier.math.tree.trees_json import from_json, to_json
from oprime_verifier.math.tree.values import Expr

MAX_ITEMS = 200
"""Proofs before the process is replaced: sympy's caches grow."""
MEMORY_BYTES = 1024 * 1024 * 1024
"""Address space above what the parent has at the fork."""
_LENGTH = struct.Struct(">I")


class SymbolicProcess:
    """Asks one child at a time. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid = 0
        self._owner = 0
        self._items = 0
        self._to_child = self._from_child = -1

    def prove(self, left: Expr, right: Expr, deadline_s: float) -> bool | None:
        """Whether two expressions are equal; None where no proof was found in time."""
        try:
            question = json.dumps([to_json(left), to_json(right), deadline_s]).encode()
        except (TypeError, RecursionError):  # a part that has no place in a proof
            return None
        with self._lock:
            self._ensure()
            try:
                return self._ask(question, deadline_s)
            except OSError:
                self._kill()
                return None

    @property
    def pid(self) -> int:
        """The child's process id; 0 where none runs."""
        return self._pid

    def start(self) -> None:
        with self._lock:
            self._ensure()

    def close(self) -> None:
        with self._lock:
            self._kill()

    def _ensure(self) -> None:
        if self._pid and (self._items >= MAX_ITEMS or self._owner != os.getpid()):
            self._kill()
        if not self._pid:
            self._fork()

    def _ask(self, question: bytes, deadline_s: float) -> bool | None:
        self._items += 1
        _write(self._to_child, _LENGTH.pack(len(question)) + question)
        ready, _, _ = select.select([self._from_child], [], [], deadline_s)
        answer = os.read(self._from_child, 1) if ready else b""
        if not answer:  # it hangs, or it has died
            self._kill()
        return {b"1": True, b"0": False}.get(answer)

    def _fork(self) -> None:
        import oprime_verifier.math.decide.symbolic_child  # noqa: F401 - before the fork, once for all children

        question_read, question_write = os.pipe()
        answer_read, answer_write = os.pipe()
        gc.freeze()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                _isolate(question_read, answer_write)
                _serve(question_read, answer_write)
            finally:
                os._exit(0)
        os.close(question_read)
        os.close(answer_write)
        self._pid, self._owner, self._items = pid, parent, 0
        self._to_child, self._from_child = question_write, answer_read

    def _kill(self) -> None:
        if self._pid and self._owner == os.getpid():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._pid, 0)
        for descriptor in (self._to_child, self._from_child):
            if descriptor >= 0:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        self._pid = 0
        self._to_child = self._from_child = -1


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _read(descriptor: int, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = os.read(descriptor, count - len(data))
        if not piece:
            os._exit(0)
        data += piece
    return data


# Inside the child


def _isolate(keep_in: int, keep_out: int) -> None:
    """Keep two pipes and nothing else of the parent: no files, no environment, no core dump, little memory.

    When the parent ends, the pipe to this process closes and ends it; in the middle of a proof the limit on CPU time does.
    """
    # What stops the whole service must not end a proof as if none were found.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    low, high = sorted((keep_in, keep_out))
    os.closerange(0, low)
    os.closerange(low + 1, high)
    os.closerange(high + 1, min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 65536))
    os.environ.clear()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hardest = resource.getrlimit(resource.RLIMIT_AS)
    wanted = _address_space() + MEMORY_BYTES
    most = wanted if hardest == resource.RLIM_INFINITY else min(wanted, hardest)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    sys.setrecursionlimit(3000)


def _address_space() -> int:
    try:
        with open("/proc/self/statm") as file:  # noqa: PTH123 - no imports in a forked child
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return MEMORY_BYTES


def _serve(source: int, sink: int) -> None:
    from oprime_verifier.math.decide.symbolic_child import prove

    while True:
        (length,) = _LENGTH.unpack(_read(source, _LENGTH.size))
        left, right, deadline_s = json.loads(_read(source, length))
        _limit_cpu(deadline_s)
        _write(sink, _answer(prove, left, right))


def _limit_cpu(deadline_s: float) -> None:
    """A second guard, should the parent be stopped: the kernel ends the child."""
    used = time.process_time()
    _, hardest = resource.getrlimit(resource.RLIMIT_CPU)
    soft = int(used + deadline_s) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hardest == resource.RLIM_INFINITY else min(soft, hardest), hardest))


def _answer(prove: Any, left: list[Any], right: list[Any]) -> bytes:
    try:
        found = prove(from_json(left), from_json(right))
    except (Exception, RecursionError, MemoryError):  # noqa: BLE001 - sympy may raise anything; no proof is the answer
        return b"?"
    return b"?" if found is None else b"1" if found else b"0"
