"""Closed-loop clients whose number changes during a run, and what the cluster says meanwhile.

Promises: exactly so many requests are in flight as the phase asks for; where there are fewer in the next one, those who leave end
their request first. The first request that fails ends the run with its error.
"""

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from benchmarks.load.client import LoadClient
from benchmarks.load.response import Phase
from simulator.arrivals import poisson
from simulator.policies import AUTO, POLICIES

DISTINCT = 1000
"""Requests before the same ones come again."""

SAMPLE_S = 0.2


@dataclass(frozen=True, slots=True)
class Work:
    """What requests ask for: prompts by number, output tokens from and to, temperature; policy `auto`."""

    prompts: int
    tokens: tuple[int, int]
    temperature: float
    seed: int


class SteppedClients:
    """`finished` requests so far. `take` gets the seconds since the start and the cluster's state every SAMPLE_S."""

    def __init__(self, client: LoadClient, work: Work, take: Callable[[float, dict[str, Any]], None]):
        self.client, self.work, self.finished = client, work, 0
        self._take, self._wanted = take, 0
        self._clients: dict[int, asyncio.Task[None]] = {}
        self._arrivals = itertools.cycle(poisson(1.0, DISTINCT, work.prompts, work.tokens, (work.seed,)))
        self._started = time.monotonic()

    def _now(self) -> float:
        return time.monotonic() - self._started

    async def phase(self, in_flight: int, seconds: float) -> Phase:
        """Raises the first error of a client."""
        start, self._wanted = self._now(), in_flight
        for i in range(in_flight):
            if i in self._clients and self._clients[i].done():
                self._clients.pop(i).result()
            if i not in self._clients:
                self._clients[i] = asyncio.ensure_future(self._requests(i))
        over = asyncio.ensure_future(asyncio.sleep(seconds))
        # Without clients the phase is a wait.
        done, _ = await asyncio.wait([*self._clients.values(), over], timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
        over.cancel()
        for task in done - {over}:
            task.result()
        return Phase(in_flight, start, self._now())

    async def _requests(self, number: int) -> None:
        while number < self._wanted:
            await self.client.one(next(self._arrivals), self.work.temperature, POLICIES[AUTO])
            self.finished += 1

    async def leave(self) -> None:
        """Every request in flight comes to its end. Raises the first error of a client."""
        self._wanted = 0
        await asyncio.gather(*self._clients.values())

    async def close(self) -> None:
        """Nothing is left in flight."""
        self._wanted = 0
        for task in self._clients.values():
            task.cancel()
        await asyncio.gather(*self._clients.values(), return_exceptions=True)

    async def sample(self) -> None:
        """Until cancelled. An answer that does not come leaves a gap."""
        while True:
            with contextlib.suppress(httpx.HTTPError):
                self._take(self._now(), await self.client.cluster())
            await asyncio.sleep(SAMPLE_S)
