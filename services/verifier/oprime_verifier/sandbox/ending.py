"""Decide how a job ended, from what was seen of it from outside."""

import os
import signal
from dataclasses import dataclass

from oprime_verifier.sandbox.inside.stage import BROKEN, READY, REFUSED, RUNNING
from oprime_verifier.sandbox.types import Ending, Limits, SandboxFailedError

MEMORY_SHARE = 0.9
"""A crash at this share of the memory limit is put down to memory."""
REFUSALS = ("PermissionError: [Errno 1]", "PermissionError: [Errno 13]", "OSError: [Errno 30]")
"""How a traceback ends when the filter of system calls, Landlock or a read-only mount refused."""
MEMORY_MARKS = ("std::bad_alloc", "JavaScript heap out of memory", "Array buffer allocation failed")
"""Of C++ and JavaScript, somewhere in their last words."""
LAST_LINES = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the kernel and the zygote say about a job; nothing here is the job's own word except `stderr` and its outputs' sizes."""

    stage: bytes
    """The last mark of the child before model code ran."""
    reason: str
    """That goes with the mark."""
    status: int
    """As `wait` has it."""
    expired: bool
    """Whether the wall clock ended it."""
    asked: bool
    """Whether the judge ended it."""
    cpu_s: float
    peak_bytes: int
    stdout_bytes: int
    stderr_bytes: int
    stderr: bytes


def ending_of(facts: Facts, limits: Limits) -> Ending:
    """Raises SandboxFailedError when the child never got as far as model code."""
    if facts.asked:
        return Ending.SIGNALLED
    if facts.stage == BROKEN:
        raise SandboxFailedError(f"the sandbox could not lock its child down: {facts.reason}")
    if facts.stage not in (READY, REFUSED, RUNNING):
        why = f"was not ready within {limits.wall_s:g} s: the machine is overloaded" if facts.expired else "ended before it was ready"
        raise SandboxFailedError(f"the sandbox's child {why} (wait status {facts.status})")
    # What ends while it is compiled, by a crash or by a limit, was not running yet.
    if facts.stage != RUNNING:
        return Ending.COMPILE
    return _limit_that_ended_it(facts, limits) or (Ending.SIGNALLED if os.WIFSIGNALED(facts.status) else Ending.EXITED)


def violations_of(facts: Facts) -> tuple[str, ...]:
    """What of the forbidden a failed program ran into last, as far as it let itself be seen: a refusal that it caught leaves no trace.

    A program can only lie against itself here.
    """
    if os.WIFSIGNALED(facts.status):
        return ("system call of a foreign ABI",) if os.WTERMSIG(facts.status) == signal.SIGSYS else ()
    lines = facts.stderr.decode(errors="replace").rstrip().splitlines()
    refused = bool(lines) and lines[-1].startswith(REFUSALS) and os.waitstatus_to_exitcode(facts.status) != 0
    return (lines[-1][:200],) if refused else ()


def _limit_that_ended_it(facts: Facts, limits: Limits) -> Ending | None:
    if facts.stdout_bytes > limits.output_bytes or facts.stderr_bytes > limits.output_bytes:
        return Ending.OUTPUT
    if facts.expired or facts.cpu_s > limits.cpu_s or _signal(facts.status) == signal.SIGXCPU:
        return Ending.TIME
    return Ending.MEMORY if _out_of_memory(facts, limits) else None


def _out_of_memory(facts: Facts, limits: Limits) -> bool:
    number = _signal(facts.status)
    # Nobody here sent this SIGKILL, so the kernel did, for want of memory.
    if number == signal.SIGKILL:
        return True
    failed = number is not None or os.waitstatus_to_exitcode(facts.status) != 0
    return failed and (_says_so(facts.stderr) or (number is not None and facts.peak_bytes >= MEMORY_SHARE * limits.memory_bytes))


def _says_so(stderr: bytes) -> bool:
    last_lines = stderr.decode(errors="replace").rstrip().splitlines()[-LAST_LINES:]
    python = bool(last_lines) and last_lines[-1].split(":")[0].endswith("MemoryError")
    return python or any(mark in line for line in last_lines for mark in MEMORY_MARKS)


def _signal(status: int) -> int | None:
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
