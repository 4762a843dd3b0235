"""A process with the solution in it, which answers calls over a channel. What it says is hostile data."""

import contextlib
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

from oprime.core.verification import Verdict
from oprime_verifier.code.task import Task, explain_run, verdict_of, was_starved
from oprime_verifier.sandbox.inside.messages import BadMessageError, ChannelClosedError, receive_message, send_message
from oprime_verifier.sandbox.types import MIB, Job, Limits, Process, RunResult

SLACK_S = 1.0
"""What the channel waits longer than the sandbox, which kills the process in time."""
MOST_LOOKS = 64
"""Most messages of a process that answer nothing, in a row."""
MOST_OUTPUT_BYTES = 64 * MIB
"""Of all tests of one process, where one may not write more by itself."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The process ended, or broke the protocol, instead of answering."""

    verdict: Verdict
    reason: str
    flags: tuple[str, ...] = ()
    starved: bool = False


class Solution:
    def __init__(self, task: Task, channel: socket.socket, process: Process) -> None:
        self._task = task
        self._channel = channel
        self._process = process
        self.run: RunResult | None = None
        self.looks: set[str] = set()
        """Where it looked that no solution has to look, as far as its process noticed."""

    @classmethod
    def start(cls, task: Task, begin: Callable[[socket.socket], Process], slack_s: float = 0.0) -> Self:
        """`begin` starts its process, with this end of the channel; an answer is awaited for `slack_s` longer than a run may take."""
        limits = task.limits
        ours, theirs = socket.socketpair()
        try:
            process = begin(theirs)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.settimeout(limits.wall_s + slack_s)
        return cls(task, ours, process)

    def ask(self, message: dict[str, Any]) -> dict[str, Any] | Ended:
        with contextlib.suppress(OSError):  # the answer tells why
            send_message(self._channel, message)
        try:
            return self._answer()
        except TimeoutError:
            return self._took_too_long()
        except (ChannelClosedError, OSError):
            return self._how_it_ended()
        except BadMessageError as error:
            self.close()
            too_long = "bytes" in str(error)
            return Ended(Verdict.OUTPUT if too_long else Verdict.RUNTIME, f"the solution sent {error}", ("hack_suspected",))

    def _answer(self) -> dict[str, Any]:
        for _ in range(MOST_LOOKS):
            reply = receive_message(self._channel, self._task.limits.output_bytes)
            if reply.get("op") != "looked":
                return reply
            self.looks.add(str(reply.get("what"))[:80])
        # Each kind is told once.
        raise BadMessageError("the same thing again and again")

    def _took_too_long(self) -> Ended:
        run = self._finish(kill=True)
        self._task.check_deadline()
        starved = run.cpu_s < 0.5 * run.wall_s
        return Ended(Verdict.TIME, explain_run(run, Verdict.TIME), starved=starved)

    def _how_it_ended(self) -> Ended:
        run = self._finish(kill=False)
        verdict = verdict_of(run)
        if verdict is None:
            # It hung up without an answer and with exit code 0, which no honest solution does.
            return Ended(Verdict.RUNTIME, "the program ended before it answered", ("hack_suspected",))
        flags = ("hack_suspected", "violation") if run.violations else ()
        return Ended(verdict, explain_run(run, verdict), flags, was_starved(run, self._task.limits))

    def close(self) -> RunResult:
        """End the process: what it does after its answer is of no interest."""
        return self._finish(kill=True)

    def _finish(self, kill: bool) -> RunResult:
        if self.run is None:
            if kill:
                self._process.kill()
            try:
                self.run = self._task.note(self._process.wait())
            finally:
                self._channel.close()
        return self.run


def job_of(task: Task, entry: str, tests: int = 1, **arguments: Any) -> Job:
    """Of a process with the solution in it. `entry` is the module of `sandbox/inside` that takes charge; the process may run for as long
    as so many tests may take.
    """
    suite, options = task.suite, task.options
    usual = {
        "preamble": suite.preamble,
        "unfinished": suite.entry_point.partition(".")[0].removesuffix("()"),
        "imports": options.usual_imports,
    }
    limits = _of_several(task.limits, tests, task.left_s)
    return Job(entry=entry, source=task.program, arguments={**usual, **arguments}, limits=limits, seed=task.seed, profile=options.profile)


def _of_several(limits: Limits, tests: int, left_s: float) -> Limits:
    """Of a process that runs so many tests, one after the other."""
    output = min(limits.output_bytes * tests, max(limits.output_bytes, MOST_OUTPUT_BYTES))
    return replace(limits, cpu_s=limits.cpu_s * tests, wall_s=min(limits.wall_s * tests, left_s), output_bytes=output)


def verdict_of_exception(name: str) -> tuple[Verdict, str] | None:
    """For exceptions that mean more than a mistake."""
    if name == "MemoryError":
        return Verdict.MEMORY, "the program ran out of memory"
    if name == "PermissionError":
        return Verdict.VIOLATION, "the program failed by what the sandbox forbids (PermissionError)"
    return None


def failure_of(reply: dict[str, Any]) -> tuple[Verdict, str]:
    """What a reply with an error means, without its message, which may hold hidden input."""
    error = reply.get("error")
    name = str(error.get("type", ""))[:80] if isinstance(error, dict) else ""
    special = verdict_of_exception(name)
    if special is not None:
        return special
    if reply.get("phase") == "find":
        return Verdict.RUNTIME, f"the response does not define what is called ({name})"
    if reply.get("phase") == "encode":
        return Verdict.RUNTIME, "the result is no plain data"
    return Verdict.RUNTIME, f"the program raised {name}" + (" when it was loaded" if reply.get("phase") == "load" else "")
