"""Work on a stream of items, several at once, with results as they finish."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


async def as_they_finish(
    work: Callable[[ItemT], Awaitable[ResultT]], items: AsyncIterator[ItemT], *, at_once: int
) -> AsyncIterator[ResultT]:
    """Results in the order in which they finish. The next item is read only when fewer than `at_once` are under way.

    The first failure is raised, and the rest is cancelled.
    """
    # Both kinds of future are waited for together, so neither has a type of its own.
    running: set[asyncio.Future[Any]] = set()
    coming: asyncio.Future[Any] | None = asyncio.ensure_future(anext(items))
    try:
        while coming or running:
            takes = coming if coming is not None and len(running) < at_once else None
            waiting: set[asyncio.Future[Any]] = {*running, *([takes] if takes else [])}
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if takes is not None and takes in done:
                done.discard(takes)
                try:
                    running.add(asyncio.ensure_future(work(takes.result())))
                    coming = asyncio.ensure_future(anext(items))
                except StopAsyncIteration:
                    coming = None
            for finished in done:
                running.discard(finished)
                yield finished.result()
    finally:
        for task in (*running, *([coming] if coming else [])):
            task.cancel()
