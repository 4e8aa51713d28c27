"""Many streams read by one light process: it counts events as they come, and parses none.

Promises: every stream gives text before the window begins. CPU times are of whole processes, read at the window's two ends. A
gap lies between two arrivals on one stream, one of them at least within the window.
"""

import asyncio
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import psutil

from benchmarks.harness.http_stream import BenchError

EVENT = b"data: {"
BEGIN_TIMEOUT_S = 60.0
PROBE_S = 0.05
"""Between two requests that measure how long the gateway's loop lets one wait."""

OPENED_AT_ONCE = 32


@dataclass(frozen=True)
class Load:
    """`pids`: whose CPU time is wanted, by name."""

    port: int
    model: str
    streams: int
    seconds: float
    warm_s: float
    tokens: int
    pids: Mapping[str, tuple[int, ...]]


@dataclass
class Reading:
    """What all streams saw; `counting` is on within the window."""

    counting: bool = False
    chunks: int = 0
    gaps: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    begun: int = 0
    ended: int = 0


class _Stream(asyncio.Protocol):
    def __init__(self, reading: Reading, request: bytes):
        self._reading, self._request = reading, request
        self._tail, self._last = b"", 0.0
        self.answered = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now, reading = time.perf_counter(), self._reading
        events = (self._tail + data).count(EVENT)
        self._tail = data[-len(EVENT) + 1 :]
        if not events:
            return
        if not self._last:
            reading.begun += 1
            self.answered.set()
        elif reading.counting:
            reading.chunks += events
            reading.gaps.append(now - self._last)
        self._last = now

    def connection_lost(self, error: Exception | None) -> None:
        self._reading.ended += 1
        self.answered.set()


def run_client(load: Load) -> dict[str, float]:
    """In a process of its own. Raises BenchError when a stream does not begin or ends too early."""
    return asyncio.run(_run(load))


async def _run(load: Load) -> dict[str, float]:
    reading, transports = Reading(), []
    loop = asyncio.get_running_loop()
    for first in range(0, load.streams, OPENED_AT_ONCE):
        opened = [_Stream(reading, request_of(load, seed)) for seed in range(first, min(first + OPENED_AT_ONCE, load.streams))]
        for stream in opened:
            transport, _ = await loop.create_connection(lambda stream=stream: stream, "127.0.0.1", load.port)  # type: ignore[misc]
            transports.append(transport)
        try:
            async with asyncio.timeout(BEGIN_TIMEOUT_S):
                await asyncio.gather(*(stream.answered.wait() for stream in opened))
        except TimeoutError:
            raise BenchError(f"only {reading.begun} of {load.streams} streams began within {BEGIN_TIMEOUT_S:g} s") from None
    probing = asyncio.create_task(_probe(load, reading))
    await asyncio.sleep(load.warm_s)
    before, started = cpu_seconds(load.pids), time.perf_counter()
    reading.counting = True
    await asyncio.sleep(load.seconds)
    reading.counting = False
    elapsed, after = time.perf_counter() - started, cpu_seconds(load.pids)
    probing.cancel()
    for transport in transports:
        transport.abort()
    if reading.ended or reading.begun < load.streams or not reading.gaps:
        raise BenchError(f"{reading.begun} of {load.streams} streams began, and {reading.ended} ended before the time was over")
    spent = {f"{name}_us_per_chunk": 1e6 * (after[name] - before[name]) / reading.chunks for name in load.pids}
    return {
        "streams": float(load.streams), "chunks_per_s": reading.chunks / elapsed,
        **{f"gap_ms_p{q}": 1e3 * float(np.quantile(reading.gaps, q / 100)) for q in (50, 99)},
        **{f"loop_wait_ms_p{q}": 1e3 * float(np.quantile(reading.waits or [np.nan], q / 100)) for q in (50, 99)},
        **spent,
    }  # fmt: skip


def request_of(load: Load, seed: int) -> bytes:
    """As it goes over the wire; the connection is for this one stream."""
    body = {"model": load.model, "prompt": f"stream {seed}", "max_tokens": load.tokens, "seed": seed, "stream": True, "ignore_eos": True}
    content = json.dumps(body).encode()
    head = (
        "POST /v1/completions HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nConnection: close\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


async def _probe(load: Load, reading: Reading) -> None:
    """A request that needs nothing but a turn of the gateway's loop, again and again on one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", load.port)
    while True:
        started = time.perf_counter()
        writer.write(b"GET /v1/models HTTP/1.1\r\nHost: bench\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.split(b":")[1]))
        if reading.counting:
            reading.waits.append(time.perf_counter() - started)
        await asyncio.sleep(PROBE_S)


def cpu_seconds(pids: Mapping[str, tuple[int, ...]]) -> dict[str, float]:
    """Of processes that have ended: none. HAProxy replaces its own when it reads a new configuration."""
    own = {"client": (os.getpid(),)} if "client" in pids else {}
    return {name: sum(map(_cpu_seconds, of)) for name, of in {**pids, **own}.items()}


def _cpu_seconds(pid: int) -> float:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)
