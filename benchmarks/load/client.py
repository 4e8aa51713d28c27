"""The clients of a load bench: requests at their due times, or so many at once, streamed over HTTP.

Promises: latency counts from when a request was due, not from when this process got round to sending
it (else a slow client would flatter a slow server). The first request that fails ends the block with
its error; nothing is left running.
"""

import asyncio
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx

from benchmarks.harness.http_stream import Completion, complete_async
from drafthouse.security.client_key import authorization
from simulator.arrivals import Arrival

Prompt = str | list[int]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Served:
    """One request as its client saw it: seconds from its due time `at_s`, `sent_s` of them lost before it was sent."""

    at_s: float
    sent_s: float
    completion: Completion

    @property
    def latency_s(self) -> float:
        return self.sent_s + self.completion.seconds

    @property
    def ttft_s(self) -> float:
        return self.sent_s + self.completion.first_text_s

    @property
    def tpot_s(self) -> float:
        """Seconds per output token after the first."""
        return self.completion.decode_seconds / max(1, self.completion.tokens - 1)


class LoadClient:
    """`http` is the caller's, as are `prompts`, which arrivals choose from by number."""

    def __init__(self, http: httpx.AsyncClient, model: str, prompts: Sequence[Prompt]):
        self.http, self.model, self.prompts = http, model, prompts

    async def open_loop(self, trace: Sequence[Arrival], temperature: float, speculation: dict[str, Any]) -> list[Served]:
        """Each request when it is due, whatever became of the others; returns when all have ended, in the order of the trace."""
        started = time.perf_counter()

        async def one(arrival: Arrival) -> Served:
            await asyncio.sleep(arrival.at_s - (time.perf_counter() - started))
            late = time.perf_counter() - started - arrival.at_s
            return Served(arrival.at_s, late, await self.one(arrival, temperature, speculation))

        return await gathered([one(arrival) for arrival in trace])

    async def closed_loop(
        self, work: Sequence[Arrival], in_flight: int, temperature: float, speculation: dict[str, Any]
    ) -> list[Served]:  # fmt: skip
        """`in_flight` requests at any time until `work` is done; due times are when each one's turn came."""
        started = time.perf_counter()
        queue = iter(work)
        served: list[Served] = []

        async def worker() -> None:
            for arrival in queue:
                at_s = time.perf_counter() - started
                served.append(Served(at_s, 0.0, await self.one(arrival, temperature, speculation)))

        await gathered([worker() for _ in range(in_flight)])
        return served

    async def one(self, arrival: Arrival, temperature: float, speculation: dict[str, Any]) -> Completion:
        """Now, whenever it is due. Raises BenchError naming the server's answer."""
        body = {
            "model": self.model, "prompt": self.prompts[arrival.prompt], "max_tokens": arrival.tokens, "temperature": temperature,
            "seed": arrival.seed, "speculation": speculation, "stream": True, "stream_options": {"include_usage": True},
        }  # fmt: skip
        return await complete_async(self.http, body)

    async def cluster(self) -> dict[str, Any]:
        """`/v1/cluster` as it is now. Raises httpx.HTTPError."""
        answer = await self.http.get("/v1/cluster")
        answer.raise_for_status()
        result: dict[str, Any] = answer.json()
        return result

    async def settled_totals(self) -> dict[str, dict[str, float]]:
        """Totals by role with everything that ended before the call: each replica has reported twice since."""
        await asyncio.sleep(2.2 * (await self.cluster())["interval_s"])
        totals: dict[str, dict[str, float]] = (await self.cluster())["totals"]
        return totals


def connect_async(url: str) -> httpx.AsyncClient:
    """As many connections as requests are in flight: a client that queued them itself would hide the server's queue.
    Raises ConfigError for an API key that cannot be sent."""
    limits, timeout = httpx.Limits(max_connections=None, max_keepalive_connections=256), httpx.Timeout(30.0, read=600.0, pool=None)
    return httpx.AsyncClient(base_url=url, headers=authorization(), timeout=timeout, limits=limits, trust_env=False)


async def gathered(coroutines: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results in order; the first error ends the rest and is raised."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
