"""Work on several items at a time, with results in the order of the items."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import TypeVar

_In = TypeVar("_In")
_Out = TypeVar("_Out")


async def in_order(items: Iterable[_In], work: Callable[[_In], Awaitable[_Out]], *, at_once: int) -> AsyncGenerator[tuple[_In, _Out]]:
    """Each item with its result; at most `at_once` items are under way, beginning with the oldest whose result was not taken.

    What is under way is cancelled with an error, and when the generator is closed: iterate within `contextlib.aclosing`.
    """
    under_way: deque[tuple[_In, asyncio.Future[_Out]]] = deque()
    try:
        for item in items:
            under_way.append((item, asyncio.ensure_future(work(item))))
            if len(under_way) >= at_once:
                oldest, task = under_way.popleft()
                yield oldest, await task
        while under_way:
            oldest, task = under_way.popleft()
            yield oldest, await task
    finally:
        for _, task in under_way:
            task.cancel()
        await asyncio.gather(*(task for _, task in under_way), return_exceptions=True)
