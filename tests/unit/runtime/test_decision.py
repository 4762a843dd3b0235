"""Decisions are committed until an answer comes."""

import pytest

from fakes import ManualClock
from oprime.adapters.memory_queue import MemoryQueue
from oprime.ports import LIVE, TICKETS, Committed, Fence, LedgerMove, Output, Queue
from oprime.runtime.decision import Decision, settle
from oprime.runtime.errors import FencedError
from simulation.faults import Fault, faulty
from simulation.world import AutoClock

DECISION = Decision(
    mark="issue:1",
    outputs=[Output(stream=TICKETS, key="1", payload=b"")],
    moves=[LedgerMove(rollout_id="1:0", state=LIVE)],
    values={"v": b"1"},
)


def lossy_queue(*faults: Fault) -> tuple[MemoryQueue, Queue]:
    queue = MemoryQueue(ManualClock())
    return queue, faulty(queue, iter(faults))


@pytest.mark.parametrize("fault", [Fault.NOT_DONE, Fault.ANSWER_LOST])
async def test_a_decision_happens_once_whether_it_or_its_answer_was_lost(fault: Fault) -> None:
    queue, lossy = lossy_queue(fault, fault, Fault.NONE)
    await settle(lossy, DECISION, AutoClock())
    assert len(await queue.receive(TICKETS, "worker", most=9, wait_s=0)) == 1
    assert await queue.ledger_counts() == {"issued": 1, LIVE: 1}


async def test_a_try_that_counted_without_an_answer_is_known_to_the_next_one() -> None:
    _, lossy = lossy_queue(Fault.ANSWER_LOST, Fault.NONE)
    assert await settle(lossy, DECISION, AutoClock()) is Committed.KNOWN


async def test_a_fenced_author_is_not_asked_to_be_patient() -> None:
    queue, lossy = lossy_queue(Fault.NONE)
    with pytest.raises(FencedError):
        await settle(lossy, DECISION, AutoClock(), fence=Fence(name="coordinator", token=7))
    assert await queue.ledger_counts() == {"issued": 0, LIVE: 0}
