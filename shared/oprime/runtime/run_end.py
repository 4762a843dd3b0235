"""How a service learns that its run is over, and ends with it if `run.when_finished` says so.

The coordinator leaves first word and goes last: it says that the run has finished, waits until nobody reports any more, and drops what
the others left behind.
"""

import asyncio
import os
from collections.abc import Callable

import structlog

from oprime.ports import Clock, Values
from oprime.runtime.consume import patiently
from oprime.runtime.settings import RunSection

log = structlog.get_logger()

FINISHED = "run/finished"
"""Value: the steps at which the run finished. With more steps in its settings it is not over."""


SUPERVISED = "OPRIME_SUPERVISED"
"""Environment variable: 1 says that somebody stops this service when it is time."""


def ends_with_run(run: RunSection) -> bool:
    """Whether a service of this process ends by itself once the run has finished."""
    return run.when_finished == "exit" and os.environ.get(SUPERVISED) != "1"


async def say_finished(queue: Values, steps: int, clock: Clock) -> None:
    await patiently(lambda: queue.set_value(FINISHED, str(steps).encode()), clock)


async def is_over(queue: Values, steps: int, clock: Clock) -> bool:
    """Whether a run of so many steps has finished."""
    finished = await patiently(lambda: queue.value(FINISHED), clock)
    return finished is not None and int(finished) >= steps


async def end_with_run(
    queue: Values, run: RunSection, clock: Clock, stopping: asyncio.Event, *, all_done: Callable[[], bool] = lambda: True
) -> None:
    """Set `stopping` once the run has finished and this service has `all_done`; never if it is to go on serving."""
    if not ends_with_run(run):
        return
    while not (all_done() and await is_over(queue, run.steps, clock)):
        await clock.sleep(run.heartbeat_s)
    log.info("run_finished", steps=run.steps)
    stopping.set()


async def all_have_left(queue: Values, names: tuple[str, ...], clock: Clock, *, within_s: float) -> bool:
    """Wait until no service of these names reports any more; False if some still do after `within_s`."""
    until = clock.now() + within_s
    while [name for service in names for name in await patiently(lambda service=service: queue.values(f"{service}/"), clock)]:
        if clock.now() >= until:
            return False
        await clock.sleep(1.0)
    return True
