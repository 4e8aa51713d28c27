"""Pools scale up and down by themselves under load, on a real cluster with paced devices, and no request fails."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from benchmarks.harness.paced_server import PacedPair, PacedServer
from benchmarks.load.client import LoadClient, connect_async
from benchmarks.load.scaling import ScalingOptions, Sizes, sizes_of
from benchmarks.load.server import PacedSetup
from benchmarks.load.stepped import SteppedClients, Work

pytestmark = [pytest.mark.cluster_long, pytest.mark.timeout(600)]

OPTIONS = ScalingOptions(
    in_flight=(2, 10), seconds=1.0, most_verifiers=2, most_drafters=2, sessions=3, workload="code", tokens=(16, 32), prompts=16, seed=0
)
SETUP = PacedSetup(
    PacedPair("demo:target", "demo:draft", "llama-8b-1xh100", "draft-0.5b", time_scale=8.0, threads=1, step_tokens=48),
    crowd=1, sequences=6, prompt_tokens=64,
)  # fmt: skip
GATEWAYS = {"min": 1, "max": 2, "streams": 16, "loop_lag_s": 5.0, "up_delay_s": 2.0, "down_delay_s": 4.0, "cool_down_s": 4.0}
"""More streams than the loads of verifiers and drafters have."""

PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PacedServer]:
    sections = OPTIONS.sections()
    sections = {**sections, "autoscaling": {**sections["autoscaling"], "gateway": GATEWAYS}}
    server = SETUP.server(tmp_path_factory.mktemp("curves"), sections)
    server.start()
    try:
        yield server
    finally:
        server.close()


async def _until(clients: SteppedClients, in_flight: int, verifiers: int, drafters: int) -> Sizes:
    """Keeps the load until so many replicas report; a request that fails raises."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        await clients.phase(in_flight, 0.5)
        sizes = sizes_of(0.0, await clients.client.cluster())
        if sizes.actual == {"verifier": verifiers, "drafter": drafters}:
            return sizes
        assert time.monotonic() < deadline, f"{in_flight} in flight, wanted {verifiers} and {drafters}: {sizes}"


async def _loads(url: str) -> int:
    """Requests that were answered."""
    async with connect_async(url) as http:
        client = LoadClient(http, "paced", SETUP.prompts(None, OPTIONS.prompts))
        clients = SteppedClients(client, Work(OPTIONS.prompts, OPTIONS.tokens, 0.0, OPTIONS.seed), lambda at_s, cluster: None)
        try:
            # Drafters are short first: five sequences have places on one verifier, and three sessions on one drafter.
            await _until(clients, 5, verifiers=1, drafters=2)
            await _until(clients, 12, verifiers=2, drafters=2)
            await _until(clients, 1, verifiers=1, drafters=1)
            await clients.leave()
            await _until(clients, 0, verifiers=1, drafters=0)
            await _until(clients, 1, verifiers=1, drafters=1)
            await clients.leave()
        finally:
            await clients.close()
        return clients.finished


def test_each_pool_scales_up_and_down_under_load_and_no_request_fails(server: PacedServer) -> None:
    assert asyncio.run(_loads(server.url)) > 50


async def _text(http: httpx.AsyncClient, tokens: int) -> str:
    """What ended a streamed text."""
    body = {"model": "paced", "prompt": "def f(", "max_tokens": tokens, "stream": True, "ignore_eos": True}
    async with http.stream("POST", "/v1/completions", json=body) as answer:
        assert answer.status_code == 200
        events = [json.loads(line.removeprefix("data: ")) async for line in answer.aiter_lines() if line.startswith("data: {")]
    return str(events[-1]["choices"][0]["finish_reason"])


async def _seen(http: httpx.AsyncClient, condition: Callable[[dict[str, Any]], bool], what: str) -> None:
    """Returns when the cluster's state is so."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition(state := (await http.get("/v1/cluster")).json()):
        assert time.monotonic() < deadline, f"{what}: {state['sizes']['gateway']}, {state['pools']['gateway']}"
        await asyncio.sleep(0.2)


async def _many_streams_then_few(url: str) -> list[str]:
    """What ended the texts that ran at both gateways when one of them was to go."""
    async with connect_async(url) as http:
        crowd = [asyncio.create_task(_text(http, 900)) for _ in range(24)]
        await _seen(http, lambda state: len(state["pools"]["gateway"]) == 2, "a second gateway under 24 streams")
        few = [asyncio.create_task(_text(http, 700)) for _ in range(8)]
        await _seen(http, lambda state: all(gateway["load"] for gateway in state["pools"]["gateway"]), "streams at both")
        for task in crowd:
            task.cancel()
        await _seen(http, lambda state: state["sizes"]["gateway"]["desired"] == 1, "one is to go")
        assert any(not task.done() for task in few), "streams still run"
        reasons = await asyncio.gather(*few)
        await _seen(http, lambda state: len(state["pools"]["gateway"]) == 1, "one has gone")
        return reasons


def test_a_second_gateway_comes_with_many_streams_and_goes_without_cutting_one(server: PacedServer) -> None:
    assert asyncio.run(_many_streams_then_few(server.url)) == ["length"] * 8
