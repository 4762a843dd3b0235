"""An event loop whose time a test moves forward: what waits for a minute is shown without waiting for it."""

import asyncio
from collections.abc import Coroutine
from typing import Any


class MovedLoop(asyncio.SelectorEventLoop):
    """A real loop, with real connections. Time goes on by itself too, so that nothing in it stands still."""

    def __init__(self) -> None:
        super().__init__()
        self._moved_s = 0.0

    def time(self) -> float:
        return super().time() + self._moved_s

    def move(self, seconds: float) -> None:
        """Whatever was to happen within so many seconds happens when the caller waits next."""
        self._moved_s += seconds


def run_moved(test: Coroutine[Any, Any, None]) -> None:
    """Run a test in such a loop."""
    with asyncio.Runner(loop_factory=MovedLoop) as runner:
        runner.run(test)


def move(seconds: float) -> None:
    """Move the time of the loop that runs."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, MovedLoop), "use run_moved for this test"
    loop.move(seconds)
