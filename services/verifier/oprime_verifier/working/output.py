"""What a worker process writes besides its answers: a plug-in's prints, a traceback. It goes to the log line by line, in bounds."""

import asyncio
import time
from collections.abc import Callable

import structlog

from oprime_verifier.texts import printable

log = structlog.get_logger()

MINUTE_S = 60.0
BYTES_PER_MINUTE = 16 * 1024
"""Of one worker; what is more is counted and left out."""
LINE_CHARS = 500
PIECE_BYTES = 65536


class WorkerOutput:
    """Reads a worker's stderr to its end."""

    def __init__(self, stream: asyncio.StreamReader, pid: int, *, now: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._pid = pid
        self._now = now
        self._begun = now()
        self._used = 0
        self._left_out = 0
        self.last_line = ""

    async def follow(self) -> None:
        rest = b""
        while piece := await self._stream.read(PIECE_BYTES):
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                self._take(line)
            if len(rest) > PIECE_BYTES:
                self._take(rest)
                rest = b""
        if rest:
            self._take(rest)
        self._tell_left_out()

    def _take(self, line: bytes) -> None:
        if not line.strip():
            return
        if self._now() - self._begun >= MINUTE_S:
            self._tell_left_out()
            self._begun, self._used = self._now(), 0
        self.last_line = printable(line[: 4 * LINE_CHARS].decode(errors="replace"), LINE_CHARS)
        if self._used + min(len(line), LINE_CHARS) > BYTES_PER_MINUTE:
            self._left_out += len(line)
            return
        self._used += min(len(line), LINE_CHARS)
        log.warning("worker_output", pid=self._pid, text=self.last_line)

    def _tell_left_out(self) -> None:
        if self._left_out:
            log.warning("worker_output_left_out", pid=self._pid, bytes=self._left_out)
        self._left_out = 0
