"""What a verifier reads by name: the text of a rollout, and what it needs of the task, which siblings share."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from oprime.adapters.memory_payloads import MemoryPayloads
from oprime.adapters.memory_queue import MemoryQueue
from oprime.adapters.system_clock import SystemClock
from oprime.core.types import DroppedRollout, VerificationTask, VerifiedRollout
from oprime.core.verification import Outcome, Verdict, VerificationRequest, correct, unscored
from oprime.ports import ROLLOUTS, VERDICTS, Committed, LedgerMove
from oprime.runtime.consume import consume
from oprime.runtime.errors import PayloadsUnavailableError, QueueUnavailableError
from oprime.runtime.rollout_payloads import material_of, material_owner, write_rollouts
from oprime_verifier.verify import VerifyRollouts
from rollouts import single_turn
from service.verifier_service import NoMetrics, events, handler_of, send

SIBLINGS = 16


class CountingPayloads(MemoryPayloads):
    """Counts how often each name is asked for, and can be away."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: Counter[str] = Counter()
        self.away = 0
        """Calls that get no answer from now on."""

    def get_many(self, names: Sequence[str]) -> list[bytes | None]:
        if self.away:
            self.away -= 1
            raise PayloadsUnavailableError("the store is away for a moment")
        self.asked.update(names)
        return super().get_many(names)


@pytest.fixture
def payloads() -> CountingPayloads:
    return CountingPayloads()


@pytest.fixture
def queue() -> MemoryQueue:
    return MemoryQueue(SystemClock())


def group(payloads: MemoryPayloads, size: int = SIBLINGS) -> list[VerificationTask]:
    """Siblings as coordinator and generator write them: a text each, and one name for what judges them all."""
    request = VerificationRequest(kind="any", response="", golds=("8",))
    material = payloads.put(material_owner(7), material_of(request))
    records = write_rollouts(payloads, [single_turn(7, index, [1, 2], [3], text=f"text {index}") for index in range(size)])
    return [VerificationTask(rollout=record, material=material) for record in records]


def stored(payloads: MemoryPayloads, names: Sequence[str]) -> list[bool]:
    return [size is not None for size in payloads.sizes(names)]


async def judge_all(queue: MemoryQueue, handler: VerifyRollouts) -> None:
    """Take what waits, all of it at once, until nothing waits or is held."""
    stopping = asyncio.Event()
    loop = consume(
        queue,
        ROLLOUTS,
        "verifier-1",
        handler,
        concurrency=SIBLINGS,
        lease_s=30.0,
        clock=SystemClock(),
        stopping=stopping,
        metrics=NoMetrics(),
    )
    working = asyncio.create_task(loop)
    async with asyncio.timeout(30):
        while (depth := await queue.depth(ROLLOUTS)).waiting + depth.pending:  # noqa: ASYNC110 - the queue offers no event
            await asyncio.sleep(0.01)
    stopping.set()
    await working


async def right(_request: VerificationRequest) -> Outcome:
    return correct()


async def unable(_request: VerificationRequest) -> Outcome:
    return unscored(Verdict.UNDECIDED, "who knows")


async def test_sixteen_siblings_fetch_what_judges_them_once_and_each_its_own_text(queue: MemoryQueue, payloads: CountingPayloads) -> None:
    asked: dict[str, VerificationRequest] = {}

    async def note(request: VerificationRequest) -> Outcome:
        asked[request.request_id] = request
        return correct()

    tasks = group(payloads)
    await send(queue, tasks)
    await judge_all(queue, handler_of(queue, note, payloads=payloads))
    assert payloads.asked == {tasks[0].material: 1} | {task.rollout.text: 1 for task in tasks}
    assert {name: (request.response, request.golds) for name, request in asked.items()} == {
        f"7:{index}": (f"text {index}", ("8",)) for index in range(SIBLINGS)
    }


async def test_a_store_that_is_away_costs_no_rollout(queue: MemoryQueue, payloads: CountingPayloads) -> None:
    await send(queue, group(payloads, 2))
    payloads.away = 3
    await judge_all(queue, handler_of(queue, right, payloads=payloads))
    assert all(isinstance(event, VerifiedRollout) for event in (await events(queue, 2)).values())
    assert (payloads.away, await queue.dead_letters()) == (0, [])


@pytest.mark.parametrize("gone", ["text", "material"])
async def test_a_live_rollout_whose_payload_is_gone_is_set_aside_with_the_reason(
    queue: MemoryQueue, payloads: CountingPayloads, gone: str
) -> None:
    tasks = group(payloads, 1)
    name = tasks[0].material if gone == "material" else tasks[0].rollout.text
    payloads.delete([name])
    await send(queue, tasks)
    await judge_all(queue, handler_of(queue, right, payloads=payloads))
    (letter,) = await queue.dead_letters()
    assert (letter.stream, letter.rollout_ids) == (ROLLOUTS, ("7:0",))
    assert letter.reason.startswith(f"payload {name} (")
    assert letter.reason.endswith("is gone from the store")
    assert await queue.ledger_counts() == {"issued": 1, "live": 0, "dead:rollouts": 1}
    assert (await queue.depth(VERDICTS)).waiting == 0


@pytest.mark.parametrize("gone", ["text", "material"])
async def test_a_rollout_that_ended_on_the_way_is_let_go_quietly(queue: MemoryQueue, payloads: CountingPayloads, gone: str) -> None:
    """Whoever ended it took its payloads away."""
    tasks = group(payloads, 1)
    await send(queue, tasks)
    await queue.commit("sweep:7", moves=[LedgerMove(rollout_id="7:0", state="dropped:stale")])
    payloads.delete([tasks[0].material if gone == "material" else tasks[0].rollout.text])
    handler = handler_of(queue, right, payloads=payloads)
    with capture_logs() as logs:
        await judge_all(queue, handler)
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [("rollout_too_late", "debug")]
    assert await queue.dead_letters() == []
    assert (await queue.depth(VERDICTS)).waiting == 0
    assert await queue.ledger_counts() == {"issued": 1, "live": 0, "dropped:stale": 1}
    assert (handler.verified, handler.dropped) == (0, 0)


async def test_material_that_is_no_request_is_set_aside_and_says_how_large_it_is(queue: MemoryQueue, payloads: CountingPayloads) -> None:
    (task,) = group(payloads, 1)
    await send(queue, [replace(task, material=payloads.put(material_owner(7), b"\xff\xff"))])
    await judge_all(queue, handler_of(queue, right, payloads=payloads))
    (letter,) = await queue.dead_letters()
    assert "(2 bytes) is no readable VerifyRequest" in letter.reason


async def test_only_what_is_dropped_ends_with_its_verdict(queue: MemoryQueue, payloads: CountingPayloads) -> None:
    judged, given_up = group(payloads, 2)
    for task, judge in ((judged, right), (given_up, unable)):
        await send(queue, [task])
        await judge_all(queue, handler_of(queue, judge, payloads=payloads))
    assert stored(payloads, judged.rollout.payloads) == [True, True]
    assert stored(payloads, given_up.rollout.payloads) == [False, False]
    # The siblings still need it; it ends with their group.
    assert stored(payloads, [given_up.material]) == [True]


class SilentQueue(MemoryQueue):
    """Commits the first verdict, and its answer is lost."""

    silent = True

    async def commit(self, mark: str, **parts: Any) -> Committed:
        committed = await super().commit(mark, **parts)
        if mark.startswith("verify:") and self.silent:
            self.silent = False
            raise QueueUnavailableError("no answer came")
        return committed


async def test_a_verdict_whose_answer_was_lost_takes_nothing_away(payloads: CountingPayloads) -> None:
    """Whether it was its own or another verifier's verdict that counted, it cannot know; the sweep ends what nobody needs."""
    queue = SilentQueue(SystemClock())
    (task,) = group(payloads, 1)
    await send(queue, [task])
    await judge_all(queue, handler_of(queue, unable, payloads=payloads))
    assert (await events(queue, 1))["7:0"] == DroppedRollout(group_id=7, index=0, reason="undecided")
    assert stored(payloads, task.rollout.payloads) == [True, True]


async def test_a_verdict_that_came_second_takes_nothing_away(queue: MemoryQueue, payloads: CountingPayloads) -> None:
    """Two verifiers have one rollout: what the first says counts, and the second cannot end what the first passed on."""
    await send(queue, group(payloads, 1))
    (delivery,) = await queue.receive(ROLLOUTS, "verifier-1", wait_s=0)
    await handler_of(queue, right, payloads=payloads)(delivery)
    await handler_of(queue, unable, payloads=payloads)(replace(delivery, attempt=2))
    event = (await events(queue, 1))["7:0"]
    assert isinstance(event, VerifiedRollout)
    assert stored(payloads, event.rollout.payloads) == [True, True]
