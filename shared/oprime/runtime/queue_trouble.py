"""The one place of a process that remembers why its queue does not work."""

from collections.abc import Awaitable, Callable
from inspect import iscoroutinefunction
from typing import Any, cast

from oprime.ports import Queue
from oprime.runtime.errors import QueueUnavailableError


class QueueTrouble:
    """Stands in front of a queue and remembers what its calls failed with.

    Whoever waits and tries again need not pass its error on. A call that succeeds ends the trouble of its kind (Redis that is
    full still answers questions), a commit all trouble.
    """

    def __init__(self, queue: Queue) -> None:
        self._errors: dict[str, str] = {}
        self.queue = cast("Queue", _Watched(queue, self._errors))
        """The same queue, watched."""

    @property
    def text(self) -> str:
        """The newest error that nothing has ended yet, or empty."""
        return next(reversed(self._errors.values()), "")


class _Watched:
    def __init__(self, queue: Queue, errors: dict[str, str]) -> None:
        self._queue = queue
        self._errors = errors

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._queue, name)
        return self._watch(name, method) if iscoroutinefunction(method) else method

    def _watch(self, name: str, method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def call(*arguments: Any, **named: Any) -> Any:
            try:
                result = await method(*arguments, **named)
            except QueueUnavailableError as error:
                self._errors.pop(name, None)
                self._errors[name] = str(error)
                raise
            if name == "commit":
                self._errors.clear()
            self._errors.pop(name, None)
            return result

        return call
