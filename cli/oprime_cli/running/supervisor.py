"""Starts processes, notices when one dies, and stops them all: nothing survives, whatever happens to the supervisor."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import types
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from oprime.runtime.errors import REFUSED, RUN_ENDED, RunEndedError
from oprime_cli.running import tether
from oprime_cli.running.failures import ServiceDiedError, ServiceNotHealthyError, ServiceRefusedError
from oprime_cli.running.log_lines import last_error
from oprime_cli.running.processes import MARKER, family, is_same_process, send, send_group, start_ticks, sweep

GRACE_S = 10.0
POLL_S = 0.05
HEALTH_EVERY_S = 0.25

GUARD = Path(__file__).with_name("guard.py")
DONE = b"done"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """A process to start and how to see that it is ready."""

    name: str
    argv: tuple[str, ...]
    health: Callable[[], bool]
    env: Mapping[str, str] = field(default_factory=dict)
    """Added to the supervisor's environment."""
    stop_stage: int = 0
    """Stages are stopped one after another, lowest first; processes of one stage together."""


class Guard:
    """A process that outlives a killed supervisor and ends what it left behind. Enter it before anything is started."""

    def __init__(self) -> None:
        self.marker = uuid.uuid4().hex
        self._watched: dict[int, int] = {}

    def __enter__(self) -> Self:
        self._outer_marker = os.environ.get(MARKER)
        reading, writing = os.pipe()
        self._pipe = os.fdopen(writing, "wb", buffering=0)
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(GUARD), self.marker],
            stdin=reading,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(reading)
        # Everything that this process starts from now on inherits the marker; the guard itself does not carry it.
        os.environ[MARKER] = self.marker
        return self

    def watch(self, pid: int) -> None:
        """Name a process that must not outlive this one, whatever becomes of its environment."""
        ticks = start_ticks(pid)
        if ticks is not None:
            self._watched[pid] = ticks
            self._tell(f"{pid} {ticks}\n".encode())

    def _tell(self, line: bytes) -> None:
        with contextlib.suppress(BrokenPipeError):
            os.write(self._pipe.fileno(), line)

    def __exit__(self, *_: object) -> None:
        sweep(self.marker, self._watched, grace_s=2.0)
        if self._outer_marker is None:
            os.environ.pop(MARKER, None)
        else:
            os.environ[MARKER] = self._outer_marker
        self._tell(DONE + b"\n")
        self._pipe.close()
        self._process.wait()


class Supervisor:
    """Runs processes until `stop`. Use as a context manager: leaving it stops everything, in order.

    Call from the main thread: the kernel ties a child to the thread that started it.
    """

    def __init__(self, specs: Iterable[ProcessSpec], *, guard: Guard, logs: Path, grace_s: float = GRACE_S) -> None:
        self.specs = {spec.name: spec for spec in specs}
        self.stopped: list[str] = []
        """Names in the order in which they ended during `stop`."""
        self._guard = guard
        self._logs = logs
        self._grace_s = grace_s
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._hurry = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def log_of(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def pids(self) -> dict[str, int]:
        return {name: process.pid for name, process in self._running.items()}

    def start(self) -> None:
        """Start every process, in its own process group, with its output in logs/NAME.log."""
        self._logs.mkdir(parents=True, exist_ok=True)
        for spec in self.specs.values():
            self._start(spec)

    def _start(self, spec: ProcessSpec) -> None:
        tethered = [sys.executable, "-I", "-S", tether.__file__, str(os.getpid()), *spec.argv]
        with self.log_of(spec.name).open("ab") as log:
            self._running[spec.name] = subprocess.Popen(
                tethered,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **spec.env},
                process_group=0,
            )
        self._guard.watch(self._running[spec.name].pid)

    def check(self) -> None:
        """Raise when a process has ended, with what its log says last.

        RunEndedError if restarts are useless, ServiceRefusedError if it refused its settings, else ServiceDiedError.
        """
        ended = {name: code for name, process in self._running.items() if (code := process.poll()) is not None}
        for name, code in ended.items():
            if code == RUN_ENDED:
                raise RunEndedError(f"{name} has ended the run; {self._last_words(name)}")
        for name, code in ended.items():
            failure = ServiceRefusedError if code == REFUSED else ServiceDiedError
            raise failure(f"{name} ended {_how(code)}; {self._last_words(name)}")

    def wait_healthy(self, *, timeout_s: float, tick: Callable[[set[str]], None] | None = None) -> None:
        """Wait until every process is healthy. Raises ServiceDiedError, RunEndedError or ServiceNotHealthyError.

        `tick` gets the names that are still awaited, a few times a second.
        """
        deadline = time.monotonic() + timeout_s
        waiting = set(self.specs)
        while True:
            self.check()
            waiting -= {name for name in waiting if self.specs[name].health()}
            if tick is not None:
                tick(set(waiting))
            if not waiting:
                return
            if time.monotonic() > deadline:
                name = min(waiting)
                raise ServiceNotHealthyError(
                    f"{', '.join(sorted(waiting))} not healthy after {timeout_s:g} s; {self._last_words(name)}; "
                    "a slow machine or a large model may need a larger --start-timeout"
                )
            time.sleep(HEALTH_EVERY_S)

    def _last_words(self, name: str) -> str:
        said = last_error(self.log_of(name))
        return f"its log {self.log_of(name)} says: {said}" if said else f"its log {self.log_of(name)} is empty"

    def stop(self) -> None:
        """SIGTERM by stage, then SIGKILL for the process group of whoever is left. A second Ctrl-C kills at once."""
        with self._impatience():
            # Before the first one ends: an orphan can no longer be told from a stranger.
            everyone = family({process.pid: start_ticks(process.pid) or 0 for process in self._running.values()})
            for stage in sorted({self.specs[name].stop_stage for name in self._running}):
                self._stop_stage([name for name in self._running if self.specs[name].stop_stage == stage])
            for pid, ticks in everyone.items():
                if is_same_process(pid, ticks):
                    send(pid, signal.SIGKILL)
        self._running.clear()

    def _stop_stage(self, names: list[str]) -> None:
        for name in names:
            if self._running[name].poll() is None:
                self._running[name].send_signal(signal.SIGTERM)
        deadline = time.monotonic() + self._grace_s
        waiting = list(names)
        while waiting and not self._hurry and time.monotonic() < deadline:
            waiting = self._still_running(waiting)
            time.sleep(POLL_S if waiting else 0)
        for name in names:
            # The group, because a process may have left children behind.
            send_group(self._running[name].pid, signal.SIGKILL)
        for name in waiting:
            self._running[name].wait()
            self.stopped.append(name)

    def _still_running(self, names: list[str]) -> list[str]:
        ended = [name for name in names if self._running[name].poll() is not None]
        self.stopped.extend(ended)
        return [name for name in names if name not in ended]

    @contextlib.contextmanager
    def _impatience(self) -> Iterator[None]:
        def hurry(_number: int, _frame: types.FrameType | None) -> None:
            self._hurry = True

        with handling((signal.SIGINT, signal.SIGTERM), hurry):
            yield


@contextlib.contextmanager
def handling(signals: Iterable[signal.Signals], handler: Callable[[int, types.FrameType | None], object]) -> Iterator[None]:
    """Handle signals another way for a while; those that are ignored, as nohup and background jobs do, stay so."""
    heard = [name for name in signals if signal.getsignal(name) != signal.SIG_IGN]
    before = {name: signal.signal(name, handler) for name in heard}
    try:
        yield
    finally:
        for name, old in before.items():
            signal.signal(name, old)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the work as Ctrl-C does."""

    def interrupt(_number: int, _frame: types.FrameType | None) -> None:
        raise KeyboardInterrupt

    with handling((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), interrupt):
        yield


def _how(code: int) -> str:
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"by signal {signal.Signals(-code).name}"
        return f"by signal {-code}"
    return f"with exit code {code}"
