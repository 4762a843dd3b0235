"""Verdicts on responses, by the verifier's own workers on this machine."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from oprime.core.types import Task
from oprime.core.verification import Outcome
from oprime_cli.verifying.judge_file import judge
from oprime_verifier.config import VerifierSection
from oprime_verifier.offer import Offer, config_hash


class Judge:
    """Starts its workers with the first response."""

    def __init__(self, section: VerifierSection) -> None:
        self.fingerprint = config_hash(section)
        """Equal for judges that judge alike."""
        self.workers = section.workers
        self._offer = Offer(section)
        self._starting = asyncio.Lock()
        self._started = False

    async def outcome(self, task: Task, response: str) -> Outcome:
        async with self._starting:
            if not self._started:
                await self._offer.start()
                self._started = True
        return await judge(self._offer, task.verification(response))

    async def close(self) -> None:
        await self._offer.close()


@asynccontextmanager
async def judging(section: VerifierSection) -> AsyncIterator[Judge]:
    """A judge whose workers end with the block."""
    one = Judge(section)
    try:
        yield one
    finally:
        await one.close()
