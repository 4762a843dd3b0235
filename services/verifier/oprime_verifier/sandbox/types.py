"""What the sandbox runs and what it reports, without naming an engine."""

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from oprime.runtime.errors import OprimeError

MIB = 1024 * 1024


class SandboxFailedError(OprimeError):
    """The sandbox itself failed, which says nothing about the program; worth a retry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one process."""

    cpu_s: float = 4.0
    wall_s: float = 13.0
    memory_bytes: int = 512 * MIB
    output_bytes: int = 8 * MIB
    """Most bytes of stdout; stderr is bounded too, and only its end is kept."""


class Ending(StrEnum):
    """How a process ended."""

    EXITED = "exited"
    """By itself; `exit_code` says how."""
    SIGNALLED = "signalled"
    """By a signal that no limit explains, for example SIGSEGV or SIGABRT."""
    TIME = "time"
    MEMORY = "memory"
    OUTPUT = "output"
    COMPILE = "compile"
    """It never ran: the source does not compile, or is over a size or depth cap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One process to run. What runs is model code and therefore hostile."""

    entry: str = "program"
    """Which trusted module of `sandbox/inside` takes charge in the child: `program` runs `source` as a script with stdin and
    stdout; others speak over `channel`."""
    source: str = ""
    """Model code."""
    language: str = "python"
    """`python`, `cpp` or `javascript`."""
    stdin: bytes = b""
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """JSON for the entry module."""
    limits: Limits = Limits()
    seed: int = 0
    """Seeds `random` and hashing in the child."""
    profile: str = "bare"
    """`bare`: the standard library; `numpy`: numpy too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """How a job ended."""

    ending: Ending
    exit_code: int | None = None
    """Only when it exited."""
    signal: int | None = None
    """Only when a signal ended it."""
    stdout: bytes = b""
    stderr: bytes = b""
    """Its last few KiB."""
    cpu_s: float = 0.0
    wall_s: float = 0.0
    peak_bytes: int = 0
    fuel: int | None = None
    """Units of work, where the engine counts them: under one `profile`, a program takes the same on the same input every time."""
    violations: tuple[str, ...] = ()
    """What it tried that the sandbox forbids, as far as that was seen."""
    profile: str = ""
    """Engine and layers it ran under, for example `native+landlock+seccomp/bare`."""


class Process(Protocol):
    """A job under way."""

    def wait(self) -> RunResult:
        """Block until it ended or was ended by a limit. Raises SandboxFailedError."""
        ...

    def kill(self) -> None: ...


class Repeated(Protocol):
    """A job that runs several times, each time in a fresh process that sees nothing of the others; what all runs share is done once."""

    def start(
        self, stdin: bytes = b"", channel: socket.socket | None = None, *, wall_s: float, arguments: Mapping[str, Any] | None = None
    ) -> Process:
        """Begin a run, for at most `wall_s` seconds; `arguments` go before the job's own. Raises SandboxFailedError."""
        ...

    def close(self) -> None:
        """When the last run has ended. Raises nothing."""
        ...


class Sandbox(Protocol):
    """Runs jobs, each in a fresh process that can touch nothing. Not safe for use from several threads at once."""

    def start(self, job: Job, channel: socket.socket | None = None) -> Process:
        """Begin a job; `channel` becomes its file descriptor 3. Raises SandboxFailedError."""
        ...

    def run(self, job: Job) -> RunResult:
        """`start` and `wait`. Raises SandboxFailedError."""
        ...

    def repeat(self, job: Job, runs: int) -> "Repeated":
        """The job, to be run up to about `runs` times."""
        ...

    def close(self) -> None: ...
