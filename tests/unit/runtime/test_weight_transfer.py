"""Who takes part in a transfer of weights, and with which ranks."""

from fakes import ManualClock
from oprime.adapters.memory_queue import MemoryQueue
from oprime.runtime.weight_transfer import ANNOUNCEMENT_S, OFFER_S, Transfer, announce, offer, offered

TENSORS = {"embedding": ("bfloat16", (4, 2)), "count": ("int64", ())}


async def offer_5(queue: MemoryQueue) -> Transfer | None:
    return await offer(queue, version=5, host="learner", port=29600, tensors=TENSORS)


async def test_each_generator_gets_ranks_for_its_workers_after_the_learner() -> None:
    queue = MemoryQueue(ManualClock())
    await announce(queue, "second", 4)
    await announce(queue, "first", 2)
    transfer = await offer_5(queue)
    assert transfer is not None
    # The learner is rank 0.
    assert (transfer.world_size, transfer.first_ranks) == (7, {"first": 1, "second": 3})
    assert await offered(queue, "first", above=4) == transfer == await offered(queue, "second", above=0)


async def test_tensors_keep_their_order_types_and_shapes() -> None:
    queue = MemoryQueue(ManualClock())
    await announce(queue, "one", 1)
    await offer_5(queue)
    transfer = await offered(queue, "one", above=4)
    assert transfer is not None
    assert (transfer.names, transfer.dtypes, transfer.shapes) == (("embedding", "count"), ("bfloat16", "int64"), ((4, 2), ()))


async def test_nothing_is_offered_where_nobody_takes_it() -> None:
    clock = ManualClock()
    queue = MemoryQueue(clock)
    assert await offer_5(queue) is None
    await announce(queue, "gone", 1)
    clock.advance(ANNOUNCEMENT_S + 1)
    assert await offer_5(queue) is None


async def test_an_offer_is_for_those_that_it_names_who_are_behind_and_ends() -> None:
    clock = ManualClock()
    queue = MemoryQueue(clock)
    await announce(queue, "one", 1)
    await offer_5(queue)
    assert await offered(queue, "late", above=0) is None
    assert await offered(queue, "one", above=5) is None
    clock.advance(OFFER_S + 1)
    assert await offered(queue, "one", above=4) is None
