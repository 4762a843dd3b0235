"""Items that are worked on at the same time, and their results in order."""

import asyncio
from contextlib import aclosing

import pytest

from oprime.runtime.errors import OprimeError
from oprime_cli.in_order import in_order


async def test_results_come_in_order_and_no_more_are_under_way_than_allowed() -> None:
    under_way, most = 0, 0

    async def work(number: int) -> int:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.001 * (3 - number % 3))
        under_way -= 1
        return number * number

    assert [pair async for pair in in_order(range(10), work, at_once=3)] == [(number, number * number) for number in range(10)]
    assert most == 3


async def test_an_error_cancels_what_is_under_way() -> None:
    cancelled: list[int] = []

    async def work(number: int) -> int:
        if number == 0:
            raise OprimeError("no more")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(number)
            raise
        return number

    with pytest.raises(OprimeError, match="no more"):
        async for _ in in_order(range(10), work, at_once=4):
            pass
    assert cancelled == [1, 2, 3]


async def test_closing_the_results_cancels_what_is_under_way() -> None:
    under_way: set[int] = set()

    async def work(number: int) -> int:
        under_way.add(number)
        try:
            await asyncio.sleep(60 if number else 0)
        finally:
            under_way.remove(number)
        return number

    async with aclosing(in_order(range(10), work, at_once=4)) as results:
        async for item, result in results:
            assert (item, result, under_way) == (0, 0, {1, 2, 3})
            break
    assert under_way == set()
