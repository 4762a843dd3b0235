"""A process with the solution in it, which answers calls over a channel. What it says is hostile data."""

import socket
from dataclasses import dataclass
from typing import Any, Self

from oprime.core.verification import Verdict
from oprime_verifier.code.task import Task, explain_run, verdict_of, was_starved
from oprime_verifier.sandbox.inside.messages import BadMessageError, ChannelClosedError, receive_message, send_message
from oprime_verifier.sandbox.types import Job, RunResult

SLACK_S = 1.0
"""What the channel waits longer than the sandbox, which kills the process in time."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The process ended, or broke the protocol, instead of answering."""

    verdict: Verdict
    reason: str
    flags: tuple[str, ...] = ()
    starved: bool = False


class Solution:
    def __init__(self, task: Task, channel: socket.socket, process: Any) -> None:
        self._task = task
        self._channel = channel
        self._process = process
        self.handles: set[int] = set()
        """Objects in the process that somebody outside still holds."""
        self.run: RunResult | None = None

    @classmethod
    def start(cls, task: Task, first_handle: int = 0) -> Self:
        suite, options = task.suite, task.options
        ours, theirs = socket.socketpair()
        job = Job(
            entry="call",
            source=task.program,
            arguments={
                "preamble": suite.preamble,
                "first_handle": first_handle,
                "unfinished": suite.entry_point.partition(".")[0].removesuffix("()"),
                "imports": options.usual_imports,
                "classes": list(suite.asserts.classes) if suite.asserts else [],
            },
            limits=task.limits,
            seed=task.seed,
            profile=options.profile,
        )
        try:
            process = task.sandbox.start(job, theirs)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.settimeout(task.limits.wall_s + SLACK_S)
        return cls(task, ours, process)

    def tell(self, message: dict[str, Any]) -> None:
        """Say something that has no answer of its own."""
        try:
            send_message(self._channel, message)
        except (OSError, TimeoutError):
            return  # the next question finds out why

    def ask(self, message: dict[str, Any]) -> dict[str, Any] | Ended:
        self.tell(message)
        try:
            reply = receive_message(self._channel, self._task.limits.output_bytes)
        except (ChannelClosedError, TimeoutError, OSError):
            return self._how_it_ended()
        except BadMessageError as error:
            self.close()
            too_long = "bytes" in str(error)
            return Ended(Verdict.OUTPUT if too_long else Verdict.RUNTIME, f"the solution sent {error}", ("hack_suspected",))
        self.handles |= _handles(reply)
        return reply

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


def _handles(reply: dict[str, Any]) -> set[int]:
    found: set[int] = set()
    for field in ("value", "args"):
        table = reply.get(field)
        nodes = table.get("nodes") if isinstance(table, dict) else None
        for node in nodes if isinstance(nodes, list) else ():
            if isinstance(node, list) and len(node) > 1 and node[0] == "handle" and isinstance(node[1], int):
                found.add(node[1])
    return found


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
