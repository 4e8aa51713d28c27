"""Several asynchronous streams read as one.

Promises: items of one stream keep their order; a slow reader holds the streams back; closing the
result, or an error in one stream, closes all of them before it returns.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")

ITEMS_AHEAD = 16
"""Of all streams together, read but not yet taken."""


@dataclass(frozen=True, slots=True)
class _End:
    error: Exception | None


@dataclass(frozen=True, slots=True)
class _Item(Generic[Item]):
    index: int
    value: Item


async def fan_in(streams: Sequence[AsyncGenerator[Item, None]]) -> AsyncGenerator[tuple[int, Item], None]:
    """(index of the stream, item), in order of arrival."""
    if len(streams) == 1:  # no task, no queue: the usual request
        async with aclosing(streams[0]) as only:
            async for item in only:
                yield 0, item
        return
    queue: asyncio.Queue[_Item[Item] | _End] = asyncio.Queue(ITEMS_AHEAD)
    tasks = [asyncio.create_task(_pump(index, stream, queue)) for index, stream in enumerate(streams)]
    try:
        ended = 0
        while ended < len(tasks):
            got = await queue.get()
            if isinstance(got, _Item):
                yield got.index, got.value
            elif got.error is not None:
                raise got.error
            else:
                ended += 1
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(index: int, stream: AsyncGenerator[Item, None], queue: "asyncio.Queue[_Item[Item] | _End]") -> None:
    error: Exception | None = None
    try:
        async with aclosing(stream):
            async for item in stream:
                await queue.put(_Item(index, item))
    except Exception as caught:  # handed to the reader, who raises it
        error = caught
    await queue.put(_End(error))
