"""Both pools scale up and down by themselves under load, on a real cluster with paced devices, and no request fails."""

import asyncio
import time
from collections.abc import Iterator

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
PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PacedServer]:
    server = SETUP.server(tmp_path_factory.mktemp("curves"), OPTIONS.sections())
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
