"""How much of the time scoring may take where it shares a process with training."""

from collections.abc import Callable

from oprime.ports import Clock


class TimeShare:
    """After work of some seconds, pauses until that was the allowed share of the time."""

    def __init__(self, share: float, clock: Clock, *, applies: Callable[[], bool] = lambda: True) -> None:
        """`applies` says whether there is anybody to leave time to."""
        if not 0 < share <= 1:
            raise ValueError(f"share is {share}: scoring may take more than 0 and at most all (1) of the time")
        self._idle_per_busy = 1 / share - 1
        self._clock = clock
        self._applies = applies
        self._free_at = clock.now()

    async def turn(self) -> None:
        """Wait until scoring may go on."""
        while (left := self._free_at - self._clock.now()) > 0 and self._applies():
            await self._clock.sleep(min(left, 1.0))

    def note(self, seconds: float) -> None:
        """So much time was taken until now."""
        self._free_at = self._clock.now() + seconds * self._idle_per_busy
