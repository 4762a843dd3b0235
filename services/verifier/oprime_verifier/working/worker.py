"""One worker process as its parent sees it: start, one question at a time, kill."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

from oprime.runtime.errors import OprimeError, SettingsError
from oprime_verifier.working.frames import LENGTH, MAX_FRAME_BYTES, frame
from oprime_verifier.working.output import WorkerOutput

START_S = 120.0
"""Most seconds to import all verifiers."""
LAST_WORDS_S = 0.5
GRACE_S = 0.5
"""A worker that keeps a deadline by itself answers within this much more."""


class WorkerFailedError(OprimeError):
    """The worker ended, hung or broke the protocol; the item may be tried on another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSetup:
    """What a worker is told at its start: whether it has the built-in verifiers or one plug-in, and with which settings."""

    memory_bytes: int
    deadline_s: float
    """For requests that name none, in seconds."""
    plugin: Mapping[str, Any] | None = None
    """`name` and the settings of [verifier.plugins.NAME]; None for the built-in verifiers."""
    math: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Defaults of `MathOptions`."""
    code: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Defaults of `CodeOptions`."""
    engine: Literal["auto", "native", "wasm"] = "auto"
    """Sandbox engine of the built-in verifiers."""


class Worker:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.verifiers: list[dict[str, Any]] = []
        self._asked = 0
        assert process.stderr is not None  # noqa: S101 - it was asked for
        self._output = WorkerOutput(process.stderr, process.pid)
        self._following = asyncio.create_task(self._output.follow())

    @classmethod
    async def start(cls, setup: WorkerSetup) -> Self:
        """Start a process and wait until its verifiers are imported.

        Raises SettingsError for a plug-in that cannot be used, WorkerFailedError when the process ends or takes too long.
        """
        # exec, never fork: gRPC's threads do not survive a fork. A session of its own lets kill() reach its children too.
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "oprime_verifier.working.judge",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        worker = cls(process)
        try:
            await worker._begin(setup)
        except BaseException:
            worker.kill()
            await asyncio.shield(worker.ended())
            raise
        return worker

    async def _begin(self, setup: WorkerSetup) -> None:
        answer = await self._exchange({**asdict(setup), "parent": os.getpid(), "path": sys.path}, START_S)
        if "refused" in answer:
            raise SettingsError(answer["refused"])
        self.verifiers = answer["verifiers"]

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.returncode is None

    async def ended(self) -> int:
        """Wait for its end and for its last words; returns its exit code."""
        code = await self.process.wait()
        # What a child of its own has left open is not waited for.
        await asyncio.wait([self._following], timeout=LAST_WORDS_S)
        self._following.cancel()
        return code

    async def ask(self, item: dict[str, Any], deadline_s: float) -> dict[str, Any]:
        """One question: a request to judge, or the sandbox's self-test. Raises WorkerFailedError; the worker must be killed then."""
        self._asked += 1
        answer = await self._exchange({**item, "id": self._asked, "cpu_s": deadline_s + GRACE_S}, deadline_s, grace_s=GRACE_S)
        if answer.get("id") != self._asked:
            raise WorkerFailedError(f"the worker answered item {answer.get('id')} when asked item {self._asked}")
        return answer

    async def _exchange(self, message: dict[str, Any], deadline_s: float, grace_s: float = 0.0) -> dict[str, Any]:
        assert self.process.stdin is not None  # noqa: S101 - both pipes were asked for
        assert self.process.stdout is not None  # noqa: S101
        try:
            async with asyncio.timeout(deadline_s + grace_s):
                self.process.stdin.write(frame(message))
                await self.process.stdin.drain()
                (length,) = LENGTH.unpack(await self.process.stdout.readexactly(LENGTH.size))
                if length > MAX_FRAME_BYTES:
                    raise WorkerFailedError(f"the worker sent a frame of {length} bytes; at most {MAX_FRAME_BYTES} are read")
                return json.loads(await self.process.stdout.readexactly(length))
        except TimeoutError as error:
            raise WorkerFailedError(f"no verdict within {deadline_s:.3g} s (verifier.deadline_s)") from error
        except (asyncio.IncompleteReadError, BrokenPipeError, ConnectionResetError) as error:
            raise WorkerFailedError(await self._ending()) from error
        except (ValueError, UnicodeDecodeError) as error:
            raise WorkerFailedError(f"the worker sent something that is not JSON: {error}") from error

    async def _ending(self) -> str:
        # The pipe closes a moment before the process is reaped; a worker that closed it and lives on is killed by the caller.
        try:
            async with asyncio.timeout(1.0):
                code = await self.process.wait()
        except TimeoutError:
            return "the worker closed its pipe"
        if code >= 0:
            await asyncio.wait([self._following], timeout=LAST_WORDS_S)
            last = f"; its last words: {self._output.last_line}" if self._output.last_line else ""
            return f"the worker ended with exit code {code}{last}"
        name = next((known.name for known in signal.Signals if known == -code), f"signal {-code}")
        hint = " (out of CPU time, or memory: verifier.memory_mib)" if name in ("SIGXCPU", "SIGKILL", "SIGSEGV") else ""
        return f"the worker was killed by {name}{hint}"

    def kill(self) -> None:
        """SIGKILL the worker with everything it started; SIGTERM could be ignored."""
        if not self.alive:
            return
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
