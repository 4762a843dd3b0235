"""The machine's clock."""

import asyncio
import time


class SystemClock:
    def now(self) -> float:
        """Seconds of a clock that never goes back; only differences mean something."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
