"""The last error of the queue is remembered until it is over."""

from typing import Any

import pytest

from fakes import ManualClock
from oprime.adapters.memory_queue import MemoryQueue
from oprime.ports import TICKETS, Committed, Output
from oprime.runtime.errors import QueueUnavailableError
from oprime.runtime.queue_trouble import QueueTrouble


class FullQueue(MemoryQueue):
    """Answers questions, and stores nothing while it is full."""

    full = True

    async def commit(self, mark: str, **more: Any) -> Committed:
        if self.full:
            raise QueueUnavailableError("cannot store more")
        return await super().commit(mark, **more)


async def test_a_full_queue_is_in_trouble_although_it_answers_questions() -> None:
    full = FullQueue(ManualClock(), lease_s=5)
    trouble = QueueTrouble(full)
    queue = trouble.queue
    assert trouble.text == ""
    with pytest.raises(QueueUnavailableError):
        await queue.commit("a")
    await queue.depth(TICKETS)
    assert trouble.text == "cannot store more"
    full.full = False
    assert await queue.commit("a", outputs=[Output(stream=TICKETS, key="1", payload=b"x")])
    assert trouble.text == ""
    assert [entry async for entry in queue.ledger_entries()] == []
    assert (await queue.depth(TICKETS)).waiting == 1


async def test_other_errors_are_no_trouble_of_the_queue() -> None:
    trouble = QueueTrouble(MemoryQueue(ManualClock(), lease_s=5))
    with pytest.raises(ValueError, match="unknown stream"):
        await trouble.queue.depth("nonsense")
    assert trouble.text == ""
