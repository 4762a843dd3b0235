"""Rank 0 talks to the world; what it does to the model, every rank does with it."""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from oprime.ports import TrainEngine

STOP = "stop"
STILL_HERE = "still_here"
IDLE_CALL_S = 60.0


class Ranks:
    """Calls a named method with the same payload on all ranks, one call at a time, in one thread that owns the model."""

    def __init__(self, engine: TrainEngine, methods: Mapping[str, Callable[[bytes], Any]]) -> None:
        self._engine = engine
        self._methods = {**methods, STILL_HERE: lambda _: None}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")

    async def call(self, name: str, payload: bytes = b"") -> Any:
        """On rank 0: run a method everywhere and return rank 0's result."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._call, name, payload)

    def _call(self, name: str, payload: bytes) -> Any:
        self._engine.broadcast(name.encode() + b"\n" + payload)
        return self._methods[name](payload)

    async def stay_in_touch(self) -> None:
        """Keep idle ranks from giving up on the next collective call."""
        while True:
            await asyncio.sleep(IDLE_CALL_S)
            if self._engine.world_size > 1:
                await self.call(STILL_HERE)

    async def stop(self) -> None:
        """Release the other ranks."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._engine.broadcast, f"{STOP}\n".encode())
        self._thread.shutdown()

    def follow(self) -> None:
        """On the other ranks: do as rank 0 does until it stops."""
        while True:
            name, _, payload = self._engine.broadcast(None).partition(b"\n")
            if name.decode() == STOP:
                return
            self._methods[name.decode()](payload)
