"""One response to judge, with all that its runners need; and what they report."""

import time
from dataclasses import dataclass, field, replace
from functools import cached_property

from oprime.core.verification import TestResult, Verdict
from oprime_verifier.code.options import CodeOptions
from oprime_verifier.code.suite import TestSuite
from oprime_verifier.sandbox.types import MIB, Ending, Limits, RunResult, Sandbox

DEFAULT_CPU_S = 4.0
DEFAULT_MEMORY_MIB = 512
SHORTEST_RUN_S = 0.05


class OutOfTimeError(Exception):
    """The request's deadline came before the last test; says how much of the time the program used itself."""


class UndecidedError(Exception):
    """The tests passed in a way that says nothing about the response."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One test."""

    result: TestResult
    reason: str = ""
    """Without anything of a hidden test."""
    flags: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return self.result.verdict is Verdict.CORRECT


@dataclass(kw_only=True)
class Task:
    sandbox: Sandbox
    suite: TestSuite
    program: str
    options: CodeOptions
    seed: int = 0
    ends_at: float = float("inf")
    """On the monotonic clock."""
    cpu_used_s: float = 0.0
    last_cpu_s: float = 0.0
    """Of the last process that ended."""
    started_at: float = field(default_factory=time.monotonic)
    profile: str = ""
    """Where the program ran; of the last run."""

    @property
    def limits(self) -> Limits:
        """Of one process; none runs on past the request's deadline."""
        return replace(self._own_limits, wall_s=min(self._own_limits.wall_s, self.left_s))

    @property
    def left_s(self) -> float:
        """Until the request's deadline."""
        return max(self.ends_at - time.monotonic(), SHORTEST_RUN_S)

    @cached_property
    def _own_limits(self) -> Limits:
        options, suite = self.options, self.suite
        cpu_s = options.cpu_s or (suite.cpu_s * options.cpu_factor if suite.cpu_s else DEFAULT_CPU_S)
        memory = options.memory_mib * MIB if options.memory_mib else (suite.memory_bytes or DEFAULT_MEMORY_MIB * MIB)
        expected = max((len(case.expected) for case in suite.programs), default=0)
        return Limits(
            cpu_s=cpu_s,
            wall_s=options.wall_s or 3 * cpu_s + 1,
            memory_bytes=memory,
            output_bytes=max(int(options.output_mib * MIB), 4 * expected + 65536),
        )

    def check_deadline(self) -> None:
        """Raises OutOfTimeError."""
        if time.monotonic() >= self.ends_at:
            raise OutOfTimeError

    @property
    def used_its_time(self) -> bool:
        """Whether the program itself, and not a loaded host, used up the time."""
        return self.cpu_used_s > 0.5 * (time.monotonic() - self.started_at)

    @property
    def timings(self) -> dict[str, float]:
        """Seconds so far: of the clock, and of the CPU time that the program's processes used, to which its limits apply."""
        return {"run": time.monotonic() - self.started_at, "cpu": self.cpu_used_s}

    def note(self, run: RunResult) -> RunResult:
        """Raises OutOfTimeError for a run that the request's deadline cut off."""
        self.cpu_used_s += run.cpu_s
        self.last_cpu_s = run.cpu_s
        self.profile = run.profile or self.profile
        if run.ending is Ending.TIME:
            self.check_deadline()
        return run


def verdict_of(run: RunResult, allow_nonzero_exit: bool = False) -> Verdict | None:
    """Why a run failed by itself; None when its output decides."""
    limit = _ENDINGS.get(run.ending)
    if limit is not None:
        return limit
    if run.ending is Ending.EXITED and (run.exit_code == 0 or allow_nonzero_exit):
        return None
    return Verdict.VIOLATION if run.violations else Verdict.RUNTIME


_ENDINGS = {Ending.TIME: Verdict.TIME, Ending.MEMORY: Verdict.MEMORY, Ending.OUTPUT: Verdict.OUTPUT, Ending.COMPILE: Verdict.COMPILE}


def explain_run(run: RunResult, verdict: Verdict) -> str:
    """Without the program's output, which may repeat hidden input."""
    if verdict is Verdict.VIOLATION:
        return f"the program failed by what the sandbox forbids: {', '.join(sorted(set(run.violations)))[:200]}"
    if verdict is Verdict.RUNTIME:
        return f"the program {_ended(run)}{_error_class(run.stderr)}"
    return _REASONS.get(verdict, "")


def _ended(run: RunResult) -> str:
    return f"was ended by signal {run.signal}" if run.ending is Ending.SIGNALLED else f"ended with exit code {run.exit_code}"


def _error_class(stderr: bytes) -> str:
    """The class of the exception alone: its message may hold hidden input."""
    lines = stderr.strip().splitlines()
    name = lines[-1].partition(b":")[0].decode(errors="replace") if lines else ""
    return f" ({name})" if name.isidentifier() else ""


_REASONS = {
    Verdict.TIME: "the program ran out of time",
    Verdict.MEMORY: "the program ran out of memory",
    Verdict.OUTPUT: "the program wrote more than it may",
    Verdict.COMPILE: "the program does not compile",
}


def result_of(index: int, verdict: Verdict, run: RunResult) -> TestResult:
    return TestResult(index=index, verdict=verdict, cpu_s=run.cpu_s, wall_s=run.wall_s, peak_bytes=run.peak_bytes)


def was_starved(run: RunResult, limits: Limits) -> bool:
    """Out of wall time with little CPU time used: perhaps the host was loaded, so the run deserves another."""
    return run.ending is Ending.TIME and run.wall_s >= limits.wall_s and run.cpu_s < 0.5 * run.wall_s
