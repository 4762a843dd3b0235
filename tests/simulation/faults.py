"""A queue and a store of payloads whose calls fail: not done at all, or done and the answer lost; or whose caller dies before or after.

Wraps any of them."""

from collections.abc import Iterator
from enum import Enum
from typing import Any, cast

from oprime.ports import Delivery, Payloads, Queue
from oprime.runtime.errors import PayloadsUnavailableError, QueueUnavailableError


class Fault(Enum):
    NONE = "none"
    NOT_DONE = "not done"
    ANSWER_LOST = "answer lost"
    KILLED_BEFORE = "killed before"
    KILLED_AFTER = "killed after"


class KilledError(Exception):
    """The calling process is gone."""


CALLS = frozenset(
    {"commit", "receive", "receive_again", "receive_held", "renew", "give_back", "acknowledge", "dead_letter", "dead_letters", "replay"}
    | {"depth", "ledger_counts", "ledger_states", "snapshot", "restore_ledger", "set_value", "value", "values", "take_turn"}
)


def faulty(queue: Queue, faults: Iterator[Fault]) -> Queue:
    """`queue` as a process calls it whose calls meet `faults`, one after another and then none."""
    return cast(Queue, _FaultyQueue(queue, faults))


def faulty_payloads(payloads: Payloads, faults: Iterator[Fault]) -> Payloads:
    """`payloads` likewise."""
    return cast(Payloads, _FaultyPayloads(payloads, faults))


class _FaultyPayloads:
    def __init__(self, payloads: Payloads, faults: Iterator[Fault]) -> None:
        self._payloads = payloads
        self._faults = faults

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._payloads, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            fault = next(self._faults, Fault.NONE)
            _strike(fault, name, before=True, error=PayloadsUnavailableError)
            answer = method(*args, **kwargs)
            _strike(fault, name, before=False, error=PayloadsUnavailableError)
            return answer

        return call


class _FaultyQueue:
    def __init__(self, queue: Queue, faults: Iterator[Fault]) -> None:
        self._queue = queue
        self._faults = faults
        self._unseen: dict[tuple[Any, ...], list[Delivery]] = {}
        """What a stateful consumer was lent in an answer that was lost. An adapter gives it with the next one; so does this."""

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._queue, name)
        if name not in CALLS:
            return method

        async def call(*args: Any, **kwargs: Any) -> Any:
            fault = next(self._faults, Fault.NONE)
            _strike(fault, name, before=True)
            answer = await method(*args, **kwargs)
            if name == "receive_held":
                answer = self._unseen.pop(args, []) + answer
                if fault is Fault.ANSWER_LOST:
                    self._unseen[args] = answer
            _strike(fault, name, before=False)
            return answer

        return call


def _strike(fault: Fault, name: str, *, before: bool, error: type[QueueUnavailableError] = QueueUnavailableError) -> None:
    if fault is (Fault.NOT_DONE if before else Fault.ANSWER_LOST):
        raise error(f"{name}: {fault.value}")
    if fault is (Fault.KILLED_BEFORE if before else Fault.KILLED_AFTER):
        raise KilledError(name)
