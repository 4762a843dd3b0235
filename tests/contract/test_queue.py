"""The contract of the Queue port, on the memory queue with a clock moved by hand and on a real Redis with short leases."""

import asyncio
import random
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from uuid import uuid4

import numpy as np
import pytest

from fakes import ManualClock
from oprime.adapters.local_redis import LocalRedis, find_server
from oprime.adapters.memory_queue import MemoryQueue
from oprime.adapters.redis_queue import RedisQueue
from oprime.core.types import RolloutRecord, VerificationTask, VerifiedRollout
from oprime.core.verification import VerifierIdentity, correct
from oprime.ports import BATCHES, DEAD, LIVE, ROLLOUTS, STREAMS, TICKETS, VERDICTS, Committed, Delivery, Fence, LedgerMove, Output, Queue
from oprime.runtime.errors import FencedError, QueueUnavailableError, UnusableInputError
from oprime.wire.codec import event_from_proto, event_to_proto, verification_task_to_proto
from oprime_proto.v1 import common_pb2 as pb
from rollouts import single_turn

SHORT_LEASE_S = 0.3
"""For tests in which leases run out: they only ever wait longer than that."""
LONG_LEASE_S = 2.0
"""For tests in which a lease must hold while less time than that passes."""
MAX_DELIVERIES = 3


@dataclass
class Bench:
    """One run's queue as several workers see it, and a way to let time pass."""

    queue: Queue
    lease_s: float
    another_worker: Callable[[], Queue]
    pass_time: Callable[[float], Awaitable[None]]

    async def outlast_the_lease(self) -> None:
        await self.pass_time(self.lease_s * 1.1 + 0.01)


OpenBench = Callable[[float], Bench]


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    try:
        find_server()
    except QueueUnavailableError as error:
        pytest.skip(str(error))
    with LocalRedis.start(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


def memory_bench(lease_s: float) -> Bench:
    clock = ManualClock()
    queue = MemoryQueue(clock, lease_s=lease_s, max_deliveries=MAX_DELIVERIES)
    return Bench(queue=queue, lease_s=lease_s, another_worker=lambda: queue, pass_time=clock.run_for)


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
async def open_bench(request: pytest.FixtureRequest) -> AsyncIterator[OpenBench]:
    if request.param == "memory":
        yield memory_bench
        return
    url: str = request.getfixturevalue("redis_url")
    opened: list[RedisQueue] = []

    def redis_bench(lease_s: float) -> Bench:
        run = f"test-{uuid4().hex}"

        def connect() -> RedisQueue:
            queue = RedisQueue.connect(url, run=run, lease_s=lease_s, max_deliveries=MAX_DELIVERIES)
            opened.append(queue)
            return queue

        return Bench(queue=connect(), lease_s=lease_s, another_worker=connect, pass_time=asyncio.sleep)

    yield redis_bench
    for queue in opened:
        await queue.close()


@pytest.fixture
def bench(open_bench: OpenBench) -> Bench:
    return open_bench(SHORT_LEASE_S)


@pytest.fixture
def patient_bench(open_bench: OpenBench) -> Bench:
    return open_bench(LONG_LEASE_S)


@pytest.fixture
def queue(patient_bench: Bench) -> Queue:
    return patient_bench.queue


def a_record(rollout_id: str = "7:0", tokens: int = 3) -> RolloutRecord:
    group_id, index = (int(part) for part in rollout_id.split(":"))
    rollout = single_turn(group_id, index, [1, 2], np.arange(tokens), version=5, seed=11, text="4")
    return rollout.record(payload=f"rollout/{rollout_id}/payload", text=f"text/{rollout_id}/payload")


def task_entry(rollout_id: str = "7:0") -> Output:
    """A rollout on its way to the verifier."""
    task = VerificationTask(rollout=a_record(rollout_id), material="task/7/payload")
    return Output(stream=ROLLOUTS, key=rollout_id, payload=verification_task_to_proto(task).SerializeToString())


def entry(key: str, stream: str = ROLLOUTS, payload: bytes = b"work") -> Output:
    return Output(stream=stream, key=key, payload=payload)


def to(state: str, *rollout_ids: str) -> list[LedgerMove]:
    return [LedgerMove(rollout_id=rollout_id, state=state) for rollout_id in rollout_ids]


async def issue(queue: Queue, *rollout_ids: str) -> None:
    """Put rollouts before the verifier and count them as live."""
    for rollout_id in rollout_ids:
        assert await queue.commit(f"issue:{rollout_id}", outputs=[task_entry(rollout_id)], moves=to(LIVE, rollout_id))


async def receive_one(queue: Queue, consumer: str = "worker", stream: str = ROLLOUTS) -> Delivery:
    deliveries = await queue.receive(stream, consumer, wait_s=0)
    assert len(deliveries) == 1
    return deliveries[0]


async def ledger(queue: Queue) -> dict[str, str]:
    return {rollout_id: state async for rollout_id, state in queue.ledger_entries()}


async def assert_ledger_adds_up(queue: Queue) -> None:
    """issued = the sum of all states, and the counts agree with a recount of the entries."""
    counts = await queue.ledger_counts()
    states = await ledger(queue)
    assert counts["issued"] == sum(number for state, number in counts.items() if state != "issued")
    recount = Counter(re.sub("^(trained|baseline):.*", r"\1", state) for state in states.values())
    assert counts == {"issued": len(states), LIVE: 0, **recount}


# --- commits ---


async def test_a_commit_appends_its_outputs_in_order(queue: Queue) -> None:
    assert await queue.commit("stage:1", outputs=[entry("a"), entry("b", payload=b"2"), entry("t", TICKETS)])
    first, second = await queue.receive(ROLLOUTS, "worker", most=5, wait_s=0)
    assert (first.stream, first.key, first.payload, first.attempt) == (ROLLOUTS, "a", b"work", 1)
    assert (second.key, second.payload) == ("b", b"2")
    assert (await receive_one(queue, stream=TICKETS)).key == "t"


async def test_a_commit_counts_once_although_two_workers_repeat_it(bench: Bench) -> None:
    slow, quick = bench.queue, bench.another_worker()
    await issue(slow, "7:0")
    slows = await receive_one(slow, "slow")
    await bench.outlast_the_lease()
    quicks = await receive_one(quick, "quick")
    outcome = Output(stream=VERDICTS, key="7:0", payload=b"verdict")
    assert await quick.commit("verify:7:0", outputs=[outcome], moves=to("dropped:error", "7:0"), values={"v": b"quick"}, consumed=[quicks])
    assert not await slow.commit("verify:7:0", outputs=[outcome], moves=to("trained:1", "7:0"), values={"v": b"slow"}, consumed=[slows])
    assert len(await slow.receive(VERDICTS, "coordinator", most=5, wait_s=0)) == 1
    assert await ledger(slow) == {"7:0": "dropped:error"}
    assert await slow.value("v") == b"quick"


async def test_a_repeated_commit_still_acknowledges_what_it_consumed(bench: Bench) -> None:
    queue = bench.queue
    assert await queue.commit("issue", outputs=[entry("a"), entry("b")])
    first, second = await queue.receive(ROLLOUTS, "worker", most=2, wait_s=0)
    assert await queue.commit("done", consumed=[first])
    assert not await queue.commit("done", consumed=[second])
    await bench.outlast_the_lease()
    assert await queue.receive(ROLLOUTS, "worker", wait_s=0) == []
    assert (await queue.depth(ROLLOUTS)).pending == 0


async def test_many_workers_at_once_commit_one_mark_once(patient_bench: Bench) -> None:
    workers = [patient_bench.another_worker() for _ in range(8)]
    verdicts = await asyncio.gather(*(worker.commit("verify:1", outputs=[entry("a")]) for worker in workers))
    assert Counter(verdicts) == {Committed.NEW: 1, Committed.KNOWN: 7}
    assert len(await patient_bench.queue.receive(ROLLOUTS, "worker", most=10, wait_s=0)) == 1


async def test_payloads_keep_every_byte(queue: Queue) -> None:
    payload = bytes(range(256)) * 3 + b"\r\n\x00$5\r\n"
    assert await queue.commit("stage:1", outputs=[entry("ключ \x00\n", payload=payload)], values={"name\x00": payload})
    delivery = await receive_one(queue)
    assert (delivery.key, delivery.payload) == ("ключ \x00\n", payload)
    assert await queue.value("name\x00") == payload


async def test_an_empty_payload_is_an_entry(queue: Queue) -> None:
    assert await queue.commit("stage:1", outputs=[entry("a", payload=b"")])
    assert (await receive_one(queue)).payload == b""


async def test_a_rollout_of_any_length_travels_as_a_small_record_that_arrives_unchanged(queue: Queue) -> None:
    verified = VerifiedRollout(rollout=a_record(tokens=1_000_000), outcome=correct(verifier=VerifierIdentity(name="math")))
    payload = event_to_proto(verified).SerializeToString()
    assert len(payload) < 200
    assert await queue.commit("verify:7:0", outputs=[Output(stream=VERDICTS, key="7:0", payload=payload)])
    received = await receive_one(queue, stream=VERDICTS)
    assert event_from_proto(pb.RolloutEvent.FromString(received.payload)) == verified


@pytest.mark.parametrize(("stream", "mebibytes"), [(TICKETS, 64), (ROLLOUTS, 64), (VERDICTS, 64), (BATCHES, 500)])
async def test_a_payload_that_is_too_big_is_refused_before_anything_happens(queue: Queue, stream: str, mebibytes: int) -> None:
    too_big = Output(stream=stream, key="7:0", payload=bytes(mebibytes * 2**20 + 1))
    with pytest.raises(UnusableInputError, match=rf"'7:0' for stream {stream} has \d+ bytes; at most \d+ \({mebibytes} MiB\)"):
        await queue.commit("stage:1", outputs=[entry("small"), too_big], moves=to(LIVE, "7:0"))
    assert (await queue.ledger_counts())["issued"] == 0
    assert await queue.commit("stage:1")


async def test_the_biggest_payload_passes(queue: Queue) -> None:
    payload = bytes(64 * 2**20)
    assert await queue.commit("stage:1", outputs=[entry("a", payload=payload)])
    assert (await receive_one(queue)).payload == payload


async def test_names_that_do_not_exist_are_refused(queue: Queue) -> None:
    with pytest.raises(ValueError, match=r"unknown stream 'rollout': streams are tickets, rollouts"):
        await queue.receive("rollout", "worker", wait_s=0)
    with pytest.raises(ValueError, match=r"unknown stream 'dead'"):
        await queue.commit("stage:1", outputs=[entry("a", "dead")])
    with pytest.raises(ValueError, match=r"unknown ledger state 'filtered'"):
        await queue.commit("stage:1", moves=to("filtered", "7:0"))
    with pytest.raises(ValueError, match=r"at most 0 entries"):
        await queue.receive(ROLLOUTS, "worker", most=0, wait_s=0)
    assert await queue.commit("stage:1")


# --- leases ---


async def test_an_entry_is_lent_to_one_worker_at_a_time(patient_bench: Bench) -> None:
    await issue(patient_bench.queue, "7:0")
    await receive_one(patient_bench.queue, "first")
    assert await patient_bench.another_worker().receive(ROLLOUTS, "second", wait_s=0) == []


async def test_an_entry_nobody_acknowledged_comes_back_with_attempt_2(bench: Bench) -> None:
    await issue(bench.queue, "7:0")
    first = await receive_one(bench.queue, "first")
    await bench.outlast_the_lease()
    again = await receive_one(bench.another_worker(), "second")
    assert (again.entry, again.key, again.payload) == (first.entry, first.key, first.payload)
    assert (first.attempt, again.attempt) == (1, 2)


async def test_a_worker_gets_its_own_entry_back_when_its_lease_ran_out(bench: Bench) -> None:
    await issue(bench.queue, "7:0")
    await receive_one(bench.queue)
    await bench.outlast_the_lease()
    assert (await receive_one(bench.queue)).attempt == 2


async def test_entries_whose_lease_ran_out_come_before_new_ones(bench: Bench) -> None:
    await issue(bench.queue, "7:0")
    await receive_one(bench.queue, "first")
    await issue(bench.queue, "7:1")
    await bench.outlast_the_lease()
    both = await bench.queue.receive(ROLLOUTS, "second", most=2, wait_s=0)
    assert [(delivery.key, delivery.attempt) for delivery in both] == [("7:0", 2), ("7:1", 1)]


async def test_a_renewed_entry_does_not_come_back(patient_bench: Bench) -> None:
    queue, other = patient_bench.queue, patient_bench.another_worker()
    await issue(queue, "7:0")
    mine = await receive_one(queue, "mine")
    for _ in range(2):
        await patient_bench.pass_time(0.6 * LONG_LEASE_S)
        await queue.renew([mine], "mine")
        assert await other.receive(ROLLOUTS, "other", wait_s=0) == []
    assert (await queue.depth(ROLLOUTS)).pending == 1


async def test_a_renewal_does_not_count_as_a_delivery(bench: Bench) -> None:
    await issue(bench.queue, "7:0")
    mine = await receive_one(bench.queue, "mine")
    for _ in range(5):
        await bench.queue.renew([mine], "mine")
    await bench.outlast_the_lease()
    assert (await receive_one(bench.queue, "other")).attempt == 2


async def test_a_slow_workers_renewal_does_not_steal_the_entry_back(bench: Bench) -> None:
    slow, quick = bench.queue, bench.another_worker()
    await issue(slow, "7:0")
    slows = await receive_one(slow, "slow")
    await bench.outlast_the_lease()
    await receive_one(quick, "quick")
    await slow.renew([slows], "slow")
    assert await slow.receive_again(ROLLOUTS, "slow") == []
    assert [delivery.key for delivery in await quick.receive_again(ROLLOUTS, "quick")] == ["7:0"]


async def test_a_slow_workers_renewal_does_not_lengthen_the_lease_of_its_successor(bench: Bench) -> None:
    slow, quick = bench.queue, bench.another_worker()
    await issue(slow, "7:0")
    slows = await receive_one(slow, "slow")
    await bench.outlast_the_lease()
    await receive_one(quick, "quick")
    for _ in range(2):
        await bench.pass_time(0.6 * bench.lease_s)
        await slow.renew([slows], "slow")
    assert (await receive_one(slow, "third")).attempt == 3


async def test_renewing_a_finished_entry_changes_nothing(bench: Bench) -> None:
    await issue(bench.queue, "7:0")
    mine = await receive_one(bench.queue)
    assert await bench.queue.commit("verify:7:0", consumed=[mine])
    await bench.queue.renew([mine], "worker")
    await bench.outlast_the_lease()
    assert await bench.queue.receive(ROLLOUTS, "worker", wait_s=0) == []
    assert (await bench.queue.depth(ROLLOUTS)).pending == 0


async def test_an_acknowledged_entry_is_gone(bench: Bench) -> None:
    await issue(bench.queue, "7:0", "7:1")
    both = await bench.queue.receive(ROLLOUTS, "worker", most=2, wait_s=0)
    await bench.queue.acknowledge(both)
    await bench.queue.acknowledge([])
    await bench.outlast_the_lease()
    assert await bench.queue.receive(ROLLOUTS, "worker", wait_s=0) == []


async def test_all_entries_of_many_silent_workers_are_found(patient_bench: Bench) -> None:
    names = [f"{group}:0" for group in range(60)]
    await issue(patient_bench.queue, *names)
    for worker in range(6):
        assert len(await patient_bench.queue.receive(ROLLOUTS, f"worker-{worker}", most=10, wait_s=0)) == 10
    await patient_bench.outlast_the_lease()
    again: list[Delivery] = []
    for _ in range(20):
        again += await patient_bench.queue.receive(ROLLOUTS, "survivor", most=3, wait_s=0)
    assert [delivery.key for delivery in again] == names


# --- waiting ---


async def test_a_waiting_receive_gets_an_entry_that_arrives(patient_bench: Bench) -> None:
    waiting = asyncio.create_task(patient_bench.another_worker().receive(ROLLOUTS, "worker", wait_s=60))
    await patient_bench.pass_time(0.05)
    assert not waiting.done()
    await issue(patient_bench.queue, "7:0")
    assert [delivery.key for delivery in await asyncio.wait_for(waiting, 30)] == ["7:0"]


async def test_a_waiting_receive_gets_an_entry_whose_lease_runs_out(bench: Bench) -> None:
    await issue(bench.queue, "7:0")
    await receive_one(bench.queue, "silent")
    waiting = asyncio.create_task(bench.another_worker().receive(ROLLOUTS, "worker", wait_s=60))
    await bench.outlast_the_lease()
    assert [delivery.attempt for delivery in await asyncio.wait_for(waiting, 30)] == [2]


async def test_a_receive_that_waited_in_vain_returns_nothing(bench: Bench) -> None:
    waiting = asyncio.create_task(bench.queue.receive(ROLLOUTS, "worker", wait_s=0.2))
    held = asyncio.create_task(bench.another_worker().receive_held(BATCHES, "prm", wait_s=0.2))
    await bench.pass_time(0.3)
    assert await asyncio.wait_for(waiting, 30) == []
    assert await asyncio.wait_for(held, 30) == []


async def test_two_waiting_workers_share_what_arrives(patient_bench: Bench) -> None:
    workers = [patient_bench.another_worker() for _ in range(2)]
    waiting = [asyncio.create_task(worker.receive(ROLLOUTS, f"w{i}", wait_s=60)) for i, worker in enumerate(workers)]
    await patient_bench.pass_time(0.05)
    await issue(patient_bench.queue, "7:0", "7:1")
    received = await asyncio.wait_for(asyncio.gather(*waiting), 30)
    assert sorted(delivery.key for deliveries in received for delivery in deliveries) == ["7:0", "7:1"]


# --- stateful consumers ---


async def test_held_entries_survive_a_restart_in_order(bench: Bench) -> None:
    names = [f"step-{step}" for step in range(40)]
    assert await bench.queue.commit("cut", outputs=[entry(name, BATCHES) for name in names])
    held = await bench.queue.receive_held(BATCHES, "prm", most=25, wait_s=0)
    assert [delivery.key for delivery in held] == names[:25]
    await bench.queue.acknowledge(held[:3])
    restarted = bench.another_worker()
    again = await restarted.receive_again(BATCHES, "prm")
    assert [delivery.key for delivery in again] == names[3:25]
    assert [delivery.payload for delivery in again] == [b"work"] * 22
    assert [delivery.key for delivery in await restarted.receive_held(BATCHES, "prm", most=40, wait_s=0)] == names[25:]


async def test_receive_again_leaves_the_entries_of_others_alone(patient_bench: Bench) -> None:
    await issue(patient_bench.queue, "7:0", "7:1")
    await receive_one(patient_bench.queue, "first")
    await receive_one(patient_bench.queue, "second")
    assert [delivery.key for delivery in await patient_bench.queue.receive_again(ROLLOUTS, "second")] == ["7:1"]
    assert await patient_bench.queue.receive_again(ROLLOUTS, "third") == []


async def test_receive_held_takes_new_entries_only_however_long_others_are_held(bench: Bench) -> None:
    assert await bench.queue.commit("cut:1", outputs=[entry("step-1", BATCHES)])
    for _ in range(MAX_DELIVERIES + 2):
        assert len(await bench.queue.receive_held(BATCHES, "prm", wait_s=0)) <= 1
        await bench.outlast_the_lease()
    assert await bench.queue.receive_held(BATCHES, "prm", wait_s=0) == []
    assert await bench.queue.commit("cut:2", outputs=[entry("step-2", BATCHES)])
    assert [delivery.key for delivery in await bench.queue.receive_held(BATCHES, "prm", wait_s=0)] == ["step-2"]
    assert await bench.queue.dead_letters() == []


async def test_restarts_of_a_stateful_consumer_never_make_dead_letters(bench: Bench) -> None:
    assert await bench.queue.commit("cut:1", outputs=[entry("step-1", BATCHES)])
    await bench.queue.receive_held(BATCHES, "prm", wait_s=0)
    attempts = [(await bench.queue.receive_again(BATCHES, "prm"))[0].attempt for _ in range(MAX_DELIVERIES + 2)]
    assert attempts == [2, 3, 4, 5, 6]
    assert await bench.queue.dead_letters() == []


async def test_an_entry_that_arrives_after_a_held_receive_was_cancelled_is_not_lost(patient_bench: Bench) -> None:
    queue = patient_bench.queue
    waiting = asyncio.create_task(queue.receive_held(BATCHES, "prm", wait_s=60))
    await patient_bench.pass_time(0.05)
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting
    assert await queue.commit("cut", outputs=[entry("step-1", BATCHES), entry("step-2", BATCHES)])
    received = await queue.receive_held(BATCHES, "prm", most=2, wait_s=0)
    received += await queue.receive_held(BATCHES, "prm", most=2, wait_s=0)
    assert [delivery.key for delivery in received] == ["step-1", "step-2"]


# --- dead letters ---


async def fail_every_delivery(bench: Bench, stream: str = ROLLOUTS) -> None:
    for attempt in range(1, MAX_DELIVERIES + 1):
        assert (await receive_one(bench.queue, f"worker-{attempt}", stream)).attempt == attempt
        await bench.outlast_the_lease()
    assert await bench.queue.receive(stream, "last", wait_s=0) == []


async def test_an_entry_delivered_three_times_becomes_a_dead_letter(bench: Bench) -> None:
    await issue(bench.queue, "7:0")
    await fail_every_delivery(bench)
    (letter,) = await bench.queue.dead_letters()
    assert (letter.stream, letter.key, letter.rollout_ids) == (ROLLOUTS, "7:0", ("7:0",))
    assert letter.payload_bytes == len(task_entry("7:0").payload)
    assert "delivered 3 times" in letter.reason
    assert await bench.queue.ledger_counts() == {"issued": 1, LIVE: 0, "dead:rollouts": 1}
    depth = await bench.queue.depth(ROLLOUTS)
    assert (depth.waiting, depth.pending) == (0, 0)


async def test_a_receive_that_sets_an_entry_aside_still_returns_the_next(bench: Bench) -> None:
    await issue(bench.queue, "7:0")
    for attempt in range(MAX_DELIVERIES):
        await receive_one(bench.queue, f"worker-{attempt}")
        await bench.outlast_the_lease()
    await issue(bench.queue, "7:1")
    assert (await receive_one(bench.queue)).key == "7:1"
    assert len(await bench.queue.dead_letters()) == 1


async def test_a_dead_ticket_takes_all_its_rollouts_with_it(bench: Bench) -> None:
    payload = pb.Ticket(group_id=7, seeds=[1, 2, 3]).SerializeToString()
    ticket = Output(stream=TICKETS, key="7", payload=payload)
    assert await bench.queue.commit("issue:7", outputs=[ticket], moves=to(LIVE, "7:0", "7:1", "7:2"))
    assert await bench.queue.commit("generate:7:0", moves=to("dropped:error", "7:0"))
    await fail_every_delivery(bench, TICKETS)
    assert await ledger(bench.queue) == {"7:0": "dropped:error", "7:1": "dead:tickets", "7:2": "dead:tickets"}
    await assert_ledger_adds_up(bench.queue)


async def test_a_replayed_letter_is_live_and_can_be_processed(bench: Bench) -> None:
    queue = bench.queue
    await issue(queue, "7:0")
    await fail_every_delivery(bench)
    (letter,) = await queue.dead_letters()
    assert await queue.replay(letter)
    assert await queue.dead_letters() == []
    assert await queue.ledger_counts() == {"issued": 1, LIVE: 1}
    delivery = await receive_one(queue)
    assert (delivery.key, delivery.payload, delivery.attempt) == ("7:0", task_entry("7:0").payload, 1)
    assert await queue.commit("verify:7:0", outputs=[entry("7:0", VERDICTS)], moves=to("trained:4", "7:0"), consumed=[delivery])
    assert len(await queue.receive(VERDICTS, "coordinator", wait_s=0)) == 1
    assert await queue.ledger_counts() == {"issued": 1, LIVE: 0, "trained": 1}


async def test_a_late_commit_of_a_dead_entry_changes_nothing_so_that_its_replay_can(bench: Bench) -> None:
    queue = bench.queue
    await issue(queue, "7:0")
    late = await receive_one(queue, "late")
    await queue.dead_letter(late, reason="the verifier gave up")
    assert not await queue.commit("verify:7:0", outputs=[entry("7:0", VERDICTS)], moves=to("trained:1", "7:0"), consumed=[late])
    assert await queue.receive(VERDICTS, "coordinator", wait_s=0) == []
    (letter,) = await queue.dead_letters()
    assert await queue.replay(letter)
    again = await receive_one(queue)
    assert await queue.commit("verify:7:0", outputs=[entry("7:0", VERDICTS)], moves=to("trained:1", "7:0"), consumed=[again])
    assert len(await queue.receive(VERDICTS, "coordinator", wait_s=0)) == 1
    assert await queue.ledger_counts() == {"issued": 1, LIVE: 0, "trained": 1}


async def test_a_late_commit_after_the_replay_counts_once(bench: Bench) -> None:
    queue = bench.queue
    await issue(queue, "7:0")
    late = await receive_one(queue, "late")
    await queue.dead_letter(late, reason="the verifier gave up")
    (letter,) = await queue.dead_letters()
    assert await queue.replay(letter)
    assert await queue.commit("verify:7:0", outputs=[entry("7:0", VERDICTS)], consumed=[late])
    again = await receive_one(queue)
    assert not await queue.commit("verify:7:0", outputs=[entry("7:0", VERDICTS)], consumed=[again])
    assert len(await queue.receive(VERDICTS, "coordinator", most=5, wait_s=0)) == 1
    assert (await queue.depth(ROLLOUTS)).pending == 0


async def test_a_letter_is_replayed_once(queue: Queue) -> None:
    await issue(queue, "7:0")
    await queue.dead_letter(await receive_one(queue), reason="bad")
    (letter,) = await queue.dead_letters()
    assert await queue.replay(letter)
    assert not await queue.replay(letter)
    assert len(await queue.receive(ROLLOUTS, "worker", most=5, wait_s=0)) == 1


async def test_a_replay_wakes_only_the_rollouts_that_died_with_the_letter(queue: Queue) -> None:
    payload = pb.Ticket(group_id=7, seeds=[1, 2]).SerializeToString()
    assert await queue.commit("issue:7", outputs=[Output(stream=TICKETS, key="7", payload=payload)], moves=to(LIVE, "7:0", "7:1"))
    assert await queue.commit("generate:7:0", outputs=[task_entry("7:0")])
    await queue.dead_letter(await receive_one(queue), reason="bad rollout")
    await queue.dead_letter(await receive_one(queue, stream=TICKETS), reason="bad ticket")
    of_rollout, of_ticket = await queue.dead_letters()
    assert await queue.replay(of_ticket)
    assert await ledger(queue) == {"7:0": "dead:rollouts", "7:1": LIVE}
    assert await queue.replay(of_rollout)
    assert await ledger(queue) == {"7:0": LIVE, "7:1": LIVE}
    await assert_ledger_adds_up(queue)


async def test_a_worker_can_set_an_entry_aside_with_its_reason(bench: Bench) -> None:
    await issue(bench.queue, "7:0", "8:0")
    await bench.queue.dead_letter(await receive_one(bench.queue), reason="no verifier 'maths'\nin this run")
    await bench.queue.dead_letter(await receive_one(bench.queue), reason="named", rollout_ids=["8:0"])
    first, second = await bench.queue.dead_letters()
    assert (first.key, first.reason, first.rollout_ids) == ("7:0", "no verifier 'maths'\nin this run", ("7:0",))
    assert (second.key, second.reason, second.rollout_ids) == ("8:0", "named", ("8:0",))
    assert await bench.queue.ledger_counts() == {"issued": 2, LIVE: 0, "dead:rollouts": 2}
    await bench.outlast_the_lease()
    assert await bench.queue.receive(ROLLOUTS, "worker", wait_s=0) == []


async def test_an_unreadable_entry_can_be_set_aside_and_its_key_is_its_rollout(queue: Queue) -> None:
    unreadable = Output(stream=ROLLOUTS, key="7:0", payload=b"\xff\xff not a message")
    assert await queue.commit("issue", outputs=[unreadable], moves=to(LIVE, "7:0"))
    await queue.dead_letter(await receive_one(queue), reason="unreadable")
    (letter,) = await queue.dead_letters()
    assert (letter.payload_bytes, letter.rollout_ids) == (len(unreadable.payload), ("7:0",))
    assert await queue.ledger_counts() == {"issued": 1, LIVE: 0, "dead:rollouts": 1}


async def test_an_entry_that_another_worker_finished_cannot_be_set_aside(bench: Bench) -> None:
    await issue(bench.queue, "7:0")
    slows = await receive_one(bench.queue, "slow")
    await bench.outlast_the_lease()
    quicks = await receive_one(bench.queue, "quick")
    assert await bench.queue.commit("verify:7:0", consumed=[quicks])
    await bench.queue.dead_letter(slows, reason="too slow")
    assert await bench.queue.dead_letters() == []
    assert await bench.queue.ledger_counts() == {"issued": 1, LIVE: 1}


async def test_many_dead_letters_are_listed_in_order(queue: Queue) -> None:
    names = [f"{group}:0" for group in range(40)]
    await issue(queue, *names)
    for delivery in await queue.receive(ROLLOUTS, "worker", most=40, wait_s=0):
        await queue.dead_letter(delivery, reason="bad")
    assert [letter.key for letter in await queue.dead_letters()] == names


# --- depth ---


async def test_depth_tells_waiting_from_lent_entries(bench: Bench) -> None:
    empty = await bench.queue.depth(ROLLOUTS)
    assert (empty.stream, empty.waiting, empty.pending, empty.oldest_s) == (ROLLOUTS, 0, 0, 0)
    await issue(bench.queue, "7:0", "7:1", "7:2")
    await bench.pass_time(0.5)
    waiting = await bench.queue.depth(ROLLOUTS)
    assert (waiting.waiting, waiting.pending) == (3, 0)
    delivery = await receive_one(bench.queue)
    lent = await bench.queue.depth(ROLLOUTS)
    assert (lent.waiting, lent.pending) == (2, 1)
    assert waiting.oldest_s >= 0.45
    assert lent.oldest_s >= waiting.oldest_s
    await bench.queue.acknowledge([delivery, *await bench.queue.receive(ROLLOUTS, "worker", most=9, wait_s=0)])
    assert await bench.queue.depth(ROLLOUTS) == empty


async def test_every_stream_has_a_depth_before_its_first_entry(queue: Queue) -> None:
    depths = [await queue.depth(stream) for stream in STREAMS]
    assert [(depth.stream, depth.waiting, depth.pending) for depth in depths] == [(stream, 0, 0) for stream in STREAMS]


# --- entries ---


async def payloads_of(queue: Queue, stream: str) -> list[bytes]:
    return [payload async for payload in queue.entries(stream)]


async def test_entries_are_read_whether_on_loan_or_not_and_not_taken(bench: Bench) -> None:
    queue = bench.queue
    assert await payloads_of(queue, ROLLOUTS) == []
    await queue.commit("a", outputs=[entry(str(number), payload=b"%d" % number) for number in range(4)] + [entry("t", TICKETS, b"other")])
    first, second = await queue.receive(ROLLOUTS, "worker", most=2, wait_s=0)
    assert await payloads_of(queue, ROLLOUTS) == [b"0", b"1", b"2", b"3"]
    assert await payloads_of(bench.another_worker(), TICKETS) == [b"other"]
    depth = await queue.depth(ROLLOUTS)
    assert (depth.waiting, depth.pending) == (2, 2)
    await queue.commit("b", consumed=[first])
    await queue.dead_letter(second, reason="bad")
    assert await payloads_of(queue, ROLLOUTS) == [b"2", b"3"]
    assert await payloads_of(queue, DEAD) == [b"1"]
    assert [(delivery.payload, delivery.attempt) for delivery in await queue.receive(ROLLOUTS, "worker", most=9, wait_s=0)] == [
        (b"2", 1),
        (b"3", 1),
    ]


@pytest.mark.parametrize("number", [16, 17, 50])
async def test_all_pages_of_entries_are_read_once(queue: Queue, number: int) -> None:
    payloads = [b"%d" % index for index in range(number)]
    await queue.commit("a", outputs=[entry(str(index), payload=payload) for index, payload in enumerate(payloads)])
    assert await payloads_of(queue, ROLLOUTS) == payloads


async def test_entries_that_come_and_go_while_all_are_read_do_not_end_the_reading(queue: Queue) -> None:
    await queue.commit("a", outputs=[entry(str(index), payload=b"%d" % index) for index in range(50)])
    read: list[bytes] = []
    async for payload in queue.entries(ROLLOUTS):
        if not read:
            await queue.acknowledge(await queue.receive(ROLLOUTS, "worker", most=30, wait_s=0))
            await queue.commit("b", outputs=[entry("new", payload=b"new")])
        read.append(payload)
    assert len(read) == len(set(read))
    assert {b"%d" % index for index in range(30, 50)} <= set(read)


async def test_entries_of_a_stream_that_does_not_exist_are_refused(queue: Queue) -> None:
    with pytest.raises(ValueError, match=r"unknown stream 'rollout': streams are tickets"):
        await payloads_of(queue, "rollout")


# --- the ledger ---


async def test_a_new_ledger_is_all_zero(queue: Queue) -> None:
    assert await queue.ledger_counts() == {"issued": 0, LIVE: 0}
    assert await ledger(queue) == {}


async def test_the_ledger_counts_each_kind_of_end(queue: Queue) -> None:
    await queue.commit("issue", moves=to(LIVE, "1:0", "1:1", "2:0", "2:1", "3:0", "4:0", "5:0", "5:1"))
    await queue.commit("train:1", moves=[*to("trained:1", "1:0"), *to("baseline:1", "5:0")])
    await queue.commit("train:2", moves=[*to("trained:2", "1:1"), *to("baseline:2", "5:1")])
    await queue.commit("filter:2", moves=to("filtered:solved", "2:0", "2:1"))
    await queue.commit("drop:3", moves=to("dropped:stale", "3:0"))
    assert await queue.ledger_counts() == {
        "issued": 8, LIVE: 1, "trained": 2, "baseline": 2, "filtered:solved": 2, "dropped:stale": 1,
    }  # fmt: skip
    assert (await ledger(queue))["1:1"] == "trained:2"


async def test_a_terminal_state_is_final(queue: Queue) -> None:
    await queue.commit("issue", moves=to(LIVE, "1:0"))
    await queue.commit("drop", moves=to("dropped:stale", "1:0"))
    await queue.commit("again", moves=[*to("trained:1", "1:0"), *to(LIVE, "1:0"), *to("dropped:stale", "1:0")])
    assert await ledger(queue) == {"1:0": "dropped:stale"}
    assert await queue.ledger_counts() == {"issued": 1, LIVE: 0, "dropped:stale": 1}


async def test_a_rollout_is_issued_once_and_an_unknown_one_does_not_end(queue: Queue) -> None:
    await queue.commit("one", moves=to(LIVE, "1:0", "1:0"))
    await queue.commit("two", moves=[*to(LIVE, "1:0"), *to("trained:1", "9:9")])
    assert await ledger(queue) == {"1:0": LIVE}
    assert await queue.ledger_counts() == {"issued": 1, LIVE: 1}


async def test_a_rollout_may_be_issued_and_end_in_one_commit(queue: Queue) -> None:
    await queue.commit("both", moves=[*to(LIVE, "1:0"), *to("dropped:error", "1:0")])
    assert await queue.ledger_counts() == {"issued": 1, LIVE: 0, "dropped:error": 1}


async def test_a_ledger_can_be_restored(queue: Queue) -> None:
    await queue.commit("issue", moves=to(LIVE, "9:9"))
    saved = {"1:0": LIVE, "1:1": "trained:3", "2:0": "trained:4", "2:1": "filtered:solved", "2:2": "baseline:4"}
    await queue.restore_ledger(saved)
    assert await ledger(queue) == saved
    assert await queue.ledger_counts() == {"issued": 5, LIVE: 1, "trained": 2, "baseline": 1, "filtered:solved": 1}
    await queue.commit("train:5", moves=to("trained:5", "1:0"))
    await assert_ledger_adds_up(queue)
    await queue.restore_ledger({})
    assert await queue.ledger_counts() == {"issued": 0, LIVE: 0}


async def test_a_restore_with_an_unknown_state_changes_nothing(queue: Queue) -> None:
    await queue.commit("issue", moves=to(LIVE, "9:9"))
    with pytest.raises(ValueError, match="unknown ledger state 'trained'"):
        await queue.restore_ledger({"1:0": LIVE, "1:1": "trained"})
    assert await ledger(queue) == {"9:9": LIVE}


async def test_a_large_ledger_is_read_whole(queue: Queue) -> None:
    names = [f"{group}:{index}" for group in range(3_000) for index in range(4)]
    assert await queue.commit("issue", moves=to(LIVE, *names))
    assert await queue.commit("train:1", moves=to("trained:1", *names[:5_000]))
    states = [row async for row in queue.ledger_entries()]
    assert len(states) == 12_000
    assert Counter(state for _, state in states) == {LIVE: 7_000, "trained:1": 5_000}
    await queue.restore_ledger(dict(states))
    await assert_ledger_adds_up(queue)


class RandomWorker:
    """Does whatever a worker, a coordinator or a person may do to the ledger, by chance."""

    def __init__(self, queue: Queue, seed: int) -> None:
        self.queue = queue
        self.chance = random.Random(seed)
        self.held: list[Delivery] = []
        self.names = [f"{group}:{index}" for group in range(6) for index in range(2)]

    async def commit(self) -> None:
        states = [LIVE, LIVE, LIVE, "trained:1", "trained:2", "baseline:2", "filtered:solved", "dropped:stale", "dead:batches"]
        await self.queue.commit(
            f"stage:{self.chance.randrange(60)}",
            outputs=[task_entry(self.chance.choice(self.names))],
            moves=[LedgerMove(rollout_id=name, state=self.chance.choice(states)) for name in self.chance.sample(self.names, 3)],
            consumed=[self.held.pop()] if self.held and self.chance.random() < 0.5 else [],
        )

    async def receive(self) -> None:
        self.held += await self.queue.receive(ROLLOUTS, self.chance.choice("ab"), most=2, wait_s=0)

    async def set_aside(self) -> None:
        if self.held:
            await self.queue.dead_letter(self.held.pop(self.chance.randrange(len(self.held))), reason="by chance")

    async def replay(self) -> None:
        letters = await self.queue.dead_letters()
        if letters:
            await self.queue.replay(self.chance.choice(letters))

    async def step(self) -> bool:
        """Do one thing; returns whether that may wake the dead."""
        done = self.chance.choice([self.commit, self.commit, self.receive, self.set_aside, self.replay])
        await done()
        return done == self.replay


@pytest.mark.parametrize("seed", range(4))
async def test_the_ledger_adds_up_after_every_step_of_a_random_history(patient_bench: Bench, seed: int) -> None:
    worker = RandomWorker(patient_bench.queue, seed)
    before: dict[str, str] = {}
    for _ in range(120):
        may_wake_the_dead = await worker.step()
        await assert_ledger_adds_up(worker.queue)
        after = await ledger(worker.queue)
        moved = {(state, after[name]) for name, state in before.items() if after[name] != state}
        if may_wake_the_dead:
            assert all(old.startswith("dead:") and new == LIVE for old, new in moved)
        else:
            assert all(old == LIVE for old, _ in moved)
        before = after


# --- values and turns ---


async def test_notices_are_no_values(queue: Queue) -> None:
    assert await queue.notice("finished") is None
    await queue.put_notice("finished", b"40")
    await queue.put_notice("finished", b"60")
    assert await queue.notice("finished") == b"60"
    assert await queue.value("finished") is None
    assert await queue.values("") == {}


async def test_values_are_read_by_name_and_by_prefix(queue: Queue) -> None:
    assert await queue.value("coordinator/state") is None
    await queue.set_value("generator/a", b"1")
    await queue.set_value("generator/b", b"\x00\xff")
    await queue.set_value("generator[*]?", b"special")
    assert await queue.commit("mark", values={"generator/a": b"2", "prm/0": b"3"})
    assert await queue.value("generator/a") == b"2"
    assert await queue.values("generator/") == {"generator/a": b"2", "generator/b": b"\x00\xff"}
    assert await queue.values("generator[*]") == {"generator[*]?": b"special"}
    assert len(await queue.values("")) == 4
    assert await queue.values("verifier/") == {}


async def test_a_turn_belongs_to_one_owner_who_may_extend_it(patient_bench: Bench) -> None:
    mine, theirs = patient_bench.queue, patient_bench.another_worker()
    assert await mine.take_turn("coordinator", "mine", seconds=60)
    assert not await theirs.take_turn("coordinator", "theirs", seconds=60)
    assert await mine.take_turn("coordinator", "mine", seconds=60)
    assert await theirs.take_turn("publisher", "theirs", seconds=60)
    await theirs.end_turn("coordinator", "theirs")
    assert not await theirs.take_turn("coordinator", "theirs", seconds=60)
    await mine.end_turn("coordinator", "mine")
    assert await theirs.take_turn("coordinator", "theirs", seconds=60)


async def test_a_turn_expires(bench: Bench) -> None:
    assert await bench.queue.take_turn("coordinator", "mine", seconds=0.2)
    await bench.pass_time(0.3)
    assert await bench.queue.take_turn("coordinator", "theirs", seconds=60)
    assert not await bench.queue.take_turn("coordinator", "mine", seconds=60)


async def test_an_extended_turn_lasts_from_then_on(patient_bench: Bench) -> None:
    assert await patient_bench.queue.take_turn("coordinator", "mine", seconds=0.2)
    assert await patient_bench.queue.take_turn("coordinator", "mine", seconds=60)
    await patient_bench.pass_time(0.3)
    assert not await patient_bench.queue.take_turn("coordinator", "theirs", seconds=60)


async def test_a_new_owner_of_a_turn_has_a_higher_token_and_the_same_owner_keeps_its_own(bench: Bench) -> None:
    first = await bench.queue.take_turn("coordinator", "mine", seconds=0.2)
    assert first > 0
    assert await bench.queue.take_turn("coordinator", "mine", seconds=0.2) == first
    await bench.pass_time(0.3)
    assert await bench.queue.take_turn("coordinator", "mine", seconds=0.2) == first, "nobody came between"
    await bench.pass_time(0.3)
    assert await bench.queue.take_turn("coordinator", "theirs", seconds=60) > first


async def test_a_writer_whose_turn_another_took_changes_nothing(bench: Bench) -> None:
    queue = bench.queue
    mine = Fence(name="coordinator", token=await queue.take_turn("coordinator", "mine", seconds=0.2))
    assert await queue.commit("a", moves=to(LIVE, "1:0"), fence=mine)
    await bench.pass_time(0.3)
    assert await queue.commit("b", fence=mine), "a turn that ran out and that nobody took is still one's own"
    theirs = Fence(name="coordinator", token=await queue.take_turn("coordinator", "theirs", seconds=60))
    with pytest.raises(FencedError, match="c was not committed: the coordinator of this run is no longer this process"):
        await queue.commit("c", outputs=[entry("x")], moves=to("dropped:late", "1:0"), values={"v": b"1"}, fence=mine)
    with pytest.raises(FencedError, match="restore was not committed"):
        await queue.restore_ledger({"9:9": LIVE}, fence=mine)
    assert (await queue.depth(ROLLOUTS)).waiting == 0
    assert await queue.value("v") is None
    assert await ledger(queue) == {"1:0": LIVE}
    assert await queue.commit("c", fence=theirs), "the refused commit left no mark"


async def test_a_fence_is_refused_by_a_queue_that_never_gave_its_token(queue: Queue) -> None:
    with pytest.raises(FencedError, match="or the queue was emptied"):
        await queue.commit("a", fence=Fence(name="coordinator", token=1))


async def test_a_snapshot_shows_ledger_and_values_of_one_moment(queue: Queue) -> None:
    assert (await queue.snapshot()).ledger == {}
    ids = [f"{group}:0" for group in range(2500)]
    await queue.commit("first", moves=to(LIVE, *ids), values={"next": b"2500"})
    await queue.set_value("beat", b"1", expires_s=60)

    async def go_on() -> None:
        for group in range(2500, 2600):
            await queue.commit(f"issue:{group}", moves=to(LIVE, f"{group}:0"), values={"next": str(group + 1).encode()})

    issuing = asyncio.create_task(go_on())
    for _ in range(3):
        await asyncio.sleep(0.01)
        snapshot = await queue.snapshot()
        assert len(snapshot.ledger) == int(snapshot.values["next"])
        assert set(snapshot.values) == {"next"}
    await issuing


async def test_states_of_named_rollouts(queue: Queue) -> None:
    await queue.commit("a", moves=[*to(LIVE, "1:0", "1:1"), *to("dropped:late", "1:1")])
    assert await queue.ledger_states(["1:0", "1:1", "2:0"]) == {"1:0": LIVE, "1:1": "dropped:late"}
    assert await queue.ledger_states([]) == {}


async def test_a_value_that_expires_is_gone_unless_it_is_set_again(bench: Bench) -> None:
    queue = bench.queue
    await queue.set_value("generator/dead", b"1|2\xff", expires_s=0.3)
    await queue.set_value("generator/alive", b"1", expires_s=0.3)
    await queue.set_value("generator/lasting", b"1")
    assert await queue.value("generator/dead") == b"1|2\xff"
    await bench.pass_time(0.2)
    await queue.set_value("generator/alive", b"2", expires_s=0.6)
    await bench.pass_time(0.2)
    assert await queue.values("generator/") == {"generator/alive": b"2", "generator/lasting": b"1"}
    assert await queue.value("generator/dead") is None


async def test_a_commit_removes_values_and_forgets_marks(queue: Queue) -> None:
    assert await queue.commit("a", values={"x": b"1", "y": b"2"})
    assert await queue.commit("b", values={"x": None}, forget=["a", "never made"])
    assert await queue.values("") == {"y": b"2"}
    assert await queue.commit("a") is Committed.NEW
    assert await queue.commit("b", forget=["a"]) is Committed.KNOWN
    assert await queue.commit("a") is Committed.KNOWN, "a commit that does not count forgets nothing"


async def test_entries_given_back_come_at_once_and_their_delivery_does_not_count(patient_bench: Bench) -> None:
    queue = patient_bench.queue
    await queue.commit("a", outputs=[entry("a"), entry("b")])
    for _ in range(2 * MAX_DELIVERIES):
        taken = await queue.receive(ROLLOUTS, "stopping", most=2, wait_s=0)
        assert [(one.key, one.attempt) for one in taken] == [("a", 1), ("b", 1)]
        await queue.give_back(taken, "stopping")
        await queue.renew(taken, "stopping")
    assert await queue.dead_letters() == []


async def test_only_the_holder_gives_back(bench: Bench) -> None:
    queue = bench.queue
    await queue.commit("a", outputs=[entry("a"), entry("done")])
    taken = await queue.receive(ROLLOUTS, "slow", most=2, wait_s=0)
    await queue.acknowledge(taken[1:])
    await bench.outlast_the_lease()
    (again,) = await queue.receive(ROLLOUTS, "quick", wait_s=0)
    await queue.give_back(taken, "slow")
    assert await queue.receive(ROLLOUTS, "third", most=5, wait_s=0) == []
    assert again.attempt == 2


async def test_letters_are_read_from_where_the_last_reading_ended(queue: Queue) -> None:
    await queue.commit("a", outputs=[entry(str(number), payload=b"12345") for number in range(4)])
    taken = await queue.receive(ROLLOUTS, "worker", most=4, wait_s=0)
    for delivery in taken[:2]:
        await queue.dead_letter(delivery, reason="test")
    first = await queue.dead_letters()
    assert [(letter.key, letter.payload_bytes) for letter in first] == [("0", 5), ("1", 5)]
    assert await queue.dead_letters(after=first[-1].entry) == []
    for delivery in taken[2:]:
        await queue.dead_letter(delivery, reason="test")
    assert [letter.key for letter in await queue.dead_letters(after=first[-1].entry)] == ["2", "3"]


async def test_a_queue_answers_a_ping(queue: Queue) -> None:
    await queue.ping()


# --- runs and adapters beside each other ---


async def test_runs_do_not_see_each_other(open_bench: OpenBench) -> None:
    one, other = open_bench(LONG_LEASE_S).queue, open_bench(LONG_LEASE_S).queue
    assert await one.commit("mark", outputs=[entry("a")], moves=to(LIVE, "1:0"), values={"v": b"1"})
    assert await other.receive(ROLLOUTS, "worker", wait_s=0) == []
    assert await other.ledger_counts() == {"issued": 0, LIVE: 0}
    assert await other.value("v") is None
    assert await other.commit("mark")


async def a_history(queue: Queue, seed: int) -> list[object]:
    """What a worker sees of a random history; ids and times, which may differ, left out."""
    chance = random.Random(seed)
    seen: list[object] = []
    held: list[Delivery] = []
    names = [f"{group}:0" for group in range(5)]
    for _ in range(150):
        match chance.randrange(8):
            case 0 | 1:
                consumed = [held.pop(0)] if held and chance.random() < 0.7 else []
                moves = [LedgerMove(rollout_id=chance.choice(names), state=chance.choice([LIVE, "trained:1", "dropped:stale"]))]
                output = task_entry(chance.choice(names))
                seen.append(await queue.commit(f"m:{chance.randrange(50)}", outputs=[output], moves=moves, consumed=consumed))
            case 2 | 3:
                borrow = chance.choice([queue.receive, queue.receive_held])
                taken = await borrow(ROLLOUTS, chance.choice("ab"), most=chance.randint(1, 3), wait_s=0)
                held += taken
                seen.append([(delivery.key, delivery.attempt) for delivery in taken])
            case 4:
                again = await queue.receive_again(ROLLOUTS, chance.choice("ab"))
                seen.append([(delivery.key, delivery.attempt) for delivery in again])
            case 5:
                if held:
                    await queue.dead_letter(held.pop(chance.randrange(len(held))), reason="by chance")
            case 6:
                letters = await queue.dead_letters()
                seen.append([(letter.key, letter.reason, letter.rollout_ids) for letter in letters])
                seen.append([await queue.replay(letter) for letter in letters[:1]])
            case _:
                depth = await queue.depth(ROLLOUTS)
                seen += [depth.waiting, depth.pending, await queue.ledger_counts(), await ledger(queue)]
    return seen


@pytest.mark.redis
@pytest.mark.parametrize("seed", range(5))
async def test_the_memory_queue_and_redis_tell_the_same_history(redis_url: str, seed: int) -> None:
    redis_queue = RedisQueue.connect(redis_url, run=f"test-{uuid4().hex}", lease_s=600, max_deliveries=MAX_DELIVERIES)
    try:
        on_redis = await a_history(redis_queue, seed)
    finally:
        await redis_queue.close()
    assert on_redis == await a_history(MemoryQueue(ManualClock(), lease_s=600, max_deliveries=MAX_DELIVERIES), seed)
