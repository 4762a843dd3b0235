"""How a service learns that its run is over, and ends with it if `run.when_finished` says so.

The coordinator leaves first word and goes last: it says that the run has finished, waits until nobody reports any more, and drops what
the others left behind.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable

import structlog

from oprime.ports import Clock, Values
from oprime.runtime.consume import patiently
from oprime.runtime.settings import RunSection

log = structlog.get_logger()

FINISHED = "run/finished"
"""Value, and notice for the verifiers, which may read no values: the steps at which the run finished. With more steps in its settings it is
not over."""


SUPERVISED = "OPRIME_SUPERVISED"
"""Environment variable: 1 says that somebody stops this service when it is time."""


def ends_with_run(run: RunSection) -> bool:
    """Whether a service of this process ends by itself once the run has finished."""
    return run.when_finished == "exit" and os.environ.get(SUPERVISED) != "1"


async def say_finished(queue: Values, steps: int, clock: Clock) -> None:
    word = str(steps).encode()
    await patiently(lambda: queue.set_value(FINISHED, word), clock)
    await patiently(lambda: queue.put_notice(FINISHED, word), clock)


async def is_over(queue: Values, steps: int, clock: Clock) -> bool:
    """Whether a run of so many steps has finished."""
    return _reached(await patiently(lambda: queue.value(FINISHED), clock), steps)


async def is_noticed_to_be_over(queue: Values, steps: int, clock: Clock) -> bool:
    """The same, for a verifier."""
    return _reached(await patiently(lambda: queue.notice(FINISHED), clock), steps)


def _reached(finished: bytes | None, steps: int) -> bool:
    return finished is not None and int(finished) >= steps


async def end_with_run(
    queue: Values,
    run: RunSection,
    clock: Clock,
    stopping: asyncio.Event,
    *,
    all_done: Callable[[], bool] = lambda: True,
    over: Callable[[Values, int, Clock], Awaitable[bool]] = is_over,
) -> None:
    """Set `stopping` once the run is `over` and this service has `all_done`; never if it is to go on serving."""
    if not ends_with_run(run):
        return
    while not (all_done() and await over(queue, run.steps, clock)):
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
