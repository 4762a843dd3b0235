"""The line between host 0 of a generator and each of its other hosts: a JSON object per text line, both ways, and a sign of life."""

import asyncio
import contextlib
import json
from typing import Any

from oprime.runtime.errors import OprimeError

Message = dict[str, Any]

ALIVE: Message = {"alive": True}
ALIVE_EVERY_S = 5.0
SILENT_S = 60.0
"""Whoever says nothing for so long is cut off or hangs: an engine that loads may keep its process busy for some seconds."""

LAST_WORDS_S = 5.0
"""For what was sent last."""


class LineBrokenError(OprimeError):
    """The other end is gone: its process has ended, or the network between them."""


class HostLine:
    """One end of a line. Close it inside the event loop that made it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._beating = asyncio.create_task(self._beat())

    async def send(self, message: Message) -> None:
        """Raises LineBrokenError."""
        try:
            self._writer.write(json.dumps(message).encode() + b"\n")
            await self._writer.drain()
        except OSError as error:
            raise LineBrokenError(f"its connection broke ({error.strerror or type(error).__name__})") from error

    async def receive(self) -> Message:
        """The next message that is no sign of life. Raises LineBrokenError, also for what no host would send."""
        while True:
            try:
                async with asyncio.timeout(SILENT_S):
                    line = await self._reader.readline()
            except TimeoutError as error:
                raise LineBrokenError(f"it has said nothing for {SILENT_S:.0f} s") from error
            except (OSError, ValueError) as error:
                raise LineBrokenError(f"its connection broke ({getattr(error, 'strerror', None) or type(error).__name__})") from error
            message = _message(line)
            if message != ALIVE:
                return message

    async def close(self) -> None:
        # First, so that it is closed also where the rest is cut off.
        self._writer.close()
        self._beating.cancel()
        await asyncio.gather(self._beating, return_exceptions=True)
        try:
            async with asyncio.timeout(LAST_WORDS_S):
                await self._writer.wait_closed()
        except OSError:  # a time-out, too: nobody hears what is left
            self._writer.transport.abort()

    async def _beat(self) -> None:
        with contextlib.suppress(LineBrokenError):
            while True:
                await self.send(ALIVE)
                await asyncio.sleep(ALIVE_EVERY_S)


def _message(line: bytes) -> Message:
    if not line.endswith(b"\n"):
        raise LineBrokenError("its process has ended")
    try:
        message = json.loads(line)
    except ValueError as error:
        raise LineBrokenError("it does not speak as a host of this generator") from error
    if not isinstance(message, dict):
        raise LineBrokenError("it does not speak as a host of this generator")
    return message
