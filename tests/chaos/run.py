"""One chaos run: every text without faults, then the same requests over and over while the plan's faults happen.

Promises: the log has everything that the client saw. Nothing is judged here: the report is made from the log. Afterwards
the cluster is whole again and holds nothing of the requests, or ChaosError says what is missing.
"""

import asyncio
import itertools
from collections.abc import Coroutine, Sequence
from typing import Any, Protocol

import grpc

from benchmarks.load.client import connect_async, gathered
from tests.chaos.cluster_view import ClusterView, until
from tests.chaos.event_log import EventLog
from tests.chaos.faults import Fault
from tests.chaos.injector import RECOVERY_S, ChaosError, Injector
from tests.chaos.server import Address
from tests.chaos.streams import Streams
from tests.chaos.work import Work

FIRST_ANSWER_S = 30.0
AFTER_FAILURE_S = 1.0
"""A stream that failed fails the run; the next one must not hammer a broken server."""


class Display(Protocol):
    def fault_free_ended(self) -> None: ...

    def struck(self, line: str) -> None: ...


async def run_chaos(address: Address, model: str, works: Sequence[Work], faults: Sequence[Fault], log: EventLog, display: Display) -> None:
    """As many streams at once as there are works. Raises ChaosError, and ConfigError where processes are not this machine's."""
    async with connect_async(address.url) as http, grpc.aio.insecure_channel(address.grpc) as channel:
        streams, view = Streams(channel, model, log), ClusterView(http)
        polling = asyncio.create_task(view.poll())
        try:
            if not await until(lambda: view.fresh, FIRST_ANSWER_S):
                raise ChaosError(f"{address.url}/v1/cluster does not answer")
            whole = view.sizes()
            await _fault_free(streams, works, display)
            injector = Injector(view, streams, log, display.struck)
            await _under_faults(streams, works, injector.run(faults))
            await _settled(view, whole)
        finally:
            polling.cancel()


def _reference(i: int) -> str:
    return f"fault-free-{i}"


async def _fault_free(streams: Streams, works: Sequence[Work], display: Display) -> None:
    async def one(i: int, work: Work) -> None:
        stream = await streams.one(_reference(i), work, None)
        if stream.error:
            raise ChaosError(f"before any fault: request {stream.request}: {stream.error}")
        display.fault_free_ended()

    await gathered([one(i, work) for i, work in enumerate(works)])


async def _under_faults(streams: Streams, works: Sequence[Work], striking: Coroutine[Any, Any, None]) -> None:
    """A new stream for each that ends, until the faults are over; then those that run, to their ends."""
    numbers, over = itertools.count(), asyncio.Event()

    async def client() -> None:
        while not over.is_set():
            number = next(numbers)
            i = number % len(works)
            stream = await streams.one(f"chaos-{number}", works[i], _reference(i))
            if stream.error:
                await asyncio.sleep(AFTER_FAILURE_S)

    async def strike() -> None:
        await striking
        over.set()

    await gathered([strike(), *(client() for _ in works)])


async def _settled(view: ClusterView, whole: dict[str, int]) -> None:
    if not await until(lambda: view.fresh and view.sizes() == whole, RECOVERY_S):
        raise ChaosError(f"after the faults: the pools were {whole}, and are {view.sizes()} after {RECOVERY_S:.0f} s")
    if not await until(lambda: view.fresh and not view.held(), RECOVERY_S):
        raise ChaosError(f"after the last stream: {', '.join(view.held())}")
