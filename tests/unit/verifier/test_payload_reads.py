"""Payloads that are asked for at one moment are read in one call, and each who asked gets its own."""

import asyncio
from collections.abc import Sequence

import pytest

from oprime.adapters.memory_payloads import MemoryPayloads
from oprime.runtime.errors import PayloadsUnavailableError
from oprime_verifier.materials import PayloadReads


class CountedPayloads(MemoryPayloads):
    """Says what each call asked for; away while `away`."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[list[str]] = []
        self.away = False

    def get_many(self, names: Sequence[str]) -> list[bytes | None]:
        self.calls.append(list(names))
        if self.away:
            raise PayloadsUnavailableError("the store is away")
        return super().get_many(names)


async def test_reads_of_one_moment_are_one_call() -> None:
    payloads = CountedPayloads()
    one, two = payloads.put_many([("task/1", b"one"), ("task/2", b"two")])
    payloads.delete([two])
    reads = PayloadReads(payloads)
    assert await asyncio.gather(reads.read(one), reads.read(two), reads.read(one)) == [b"one", None, b"one"]
    assert payloads.calls == [[one, two]]
    assert await reads.read(one) == b"one"
    assert payloads.calls == [[one, two], [one]]


async def test_one_who_gives_up_takes_nothing_from_the_others_and_a_store_that_is_away_is_said_to_all() -> None:
    payloads = CountedPayloads()
    (one,) = payloads.put_many([("task/1", b"one")])
    reads = PayloadReads(payloads)
    asking = [asyncio.create_task(reads.read(one)) for _ in range(2)]
    await asyncio.sleep(0)
    asking[0].cancel()
    assert await asking[1] == b"one"
    payloads.away = True
    answers = await asyncio.gather(reads.read(one), reads.read("task/9"), return_exceptions=True)
    assert [type(answer) for answer in answers] == [PayloadsUnavailableError] * 2
    payloads.away = False
    assert await reads.read(one) == b"one"
    with pytest.raises(asyncio.CancelledError):
        await asking[0]
