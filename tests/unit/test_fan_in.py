"""Several streams as one: order within each, errors, closing."""

import asyncio
from contextlib import aclosing

import pytest

from deployments.gateway.fan_in import ITEMS_AHEAD, fan_in


async def counting(upto: int, closed: list[int], fail_at: int = -1):
    try:
        for i in range(upto):
            await asyncio.sleep(0)
            if i == fail_at:
                raise LookupError(f"at {i}")
            yield i
    finally:
        closed.append(upto)


@pytest.mark.parametrize("sizes", [[3], [3, 0, 50], [1] * 5])
def test_every_item_comes_in_its_streams_order(sizes):
    closed: list[int] = []

    async def run():
        return [pair async for pair in fan_in([counting(size, closed) for size in sizes])]

    found = asyncio.run(run())
    assert [[item for index, item in found if index == i] for i in range(len(sizes))] == [list(range(size)) for size in sizes]
    assert sorted(closed) == sorted(sizes)


@pytest.mark.parametrize("others", [[], [10**6]])
def test_an_error_ends_all_streams_first(others):
    closed: list[int] = []

    async def run():
        async for _ in fan_in([counting(9, closed, fail_at=4), *(counting(size, closed) for size in others)]):
            pass

    with pytest.raises(LookupError, match="at 4"):
        asyncio.run(run())
    assert closed == [9, *others]


def test_closing_ends_all_streams_and_a_slow_reader_holds_them_back():
    closed: list[int] = []
    made = []

    async def run():
        async def endless(index):
            try:
                while True:
                    made.append(index)
                    yield index
            finally:
                closed.append(index)

        async with aclosing(fan_in([endless(0), endless(1)])) as stream:
            await anext(stream)
            await asyncio.sleep(0.01)

    asyncio.run(run())
    assert sorted(closed) == [0, 1]
    assert len(made) <= ITEMS_AHEAD + 3
