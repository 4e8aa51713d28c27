"""The soak: who sends what, and what is said of processes that grow."""

import asyncio
import json
import os
from collections import Counter
from dataclasses import replace

import grpc
import httpx
import psutil
import pytest

from benchmarks.cancel.clients import Clients
from benchmarks.cancel.memory import MemoryWatch, Sample, growth, name_of
from benchmarks.cancel.soak import MODES
from benchmarks.cancel.traffic import traffic

CALLS = traffic(2000, 0.2, 32, (4, 24), seed=0, clients=4, modes=MODES)


def test_clients_and_modes_take_turns() -> None:
    counts = Counter((call.client, call.speculation) for call in CALLS)
    assert set(counts) == {(client, mode) for client in range(4) for mode in MODES}
    assert min(counts.values()) > 200
    assert {call.client for call in traffic(50, 0.2, 32, (4, 24), seed=0)} == {0}


@pytest.mark.parametrize("way", ["http", "http stream"])
def test_a_call_is_its_clients_and_speculates_as_it_says(way: str) -> None:
    async def run() -> httpx.Request:
        seen: list[httpx.Request] = []

        def answer(request: httpx.Request) -> httpx.Response:
            seen.append(request)
            return httpx.Response(429, json={"error": {"message": "no"}}, headers={"retry-after": "1"})

        headers = [{"Authorization": f"Bearer {name}"} for name in "abcd"]
        async with (
            httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://test") as http,
            grpc.aio.insecure_channel("localhost:1") as channel,
        ):
            clients = Clients(http, channel, "demo", headers)
            outcome = await clients.send(replace(CALLS[0], way=way, client=2, speculation="off"), "a", None)
        assert (outcome.ending, outcome.retry_after_s) == ("refused", 1.0)
        return seen[0]

    request = asyncio.run(run())
    assert request.headers["authorization"] == "Bearer c"
    assert json.loads(request.content)["speculation"] == {"mode": "off"}


def test_growth_is_the_slope_over_requests() -> None:
    samples = [Sample(1000 * i, 500.0 + 2.0 * i, 300.0 - i, 40 + i) for i in range(11)]
    row, count = growth("p", samples)
    assert row is not None
    assert (count, row.start_mb, row.middle_mb, row.end_mb, row.files_start, row.files_end) == (11, 500.0, 510.0, 520.0, 40, 50)
    assert (row.rss_slope, row.pss_slope) == (pytest.approx(2.0), pytest.approx(-1.0))
    assert growth("p", samples[:2]) == (None, 2)


def test_only_processes_that_lived_after_the_warm_up_are_reported() -> None:
    here, ended = psutil.Process(), iter((0, 100, 150, 200))
    watch = MemoryWatch(lambda: [here], lambda: next(ended), pause_s=60.0)
    for _ in range(4):
        watch.look()
    watch.samples["gone 1"] = watch.samples[next(iter(watch.samples))][:3]
    (row,) = watch.report(100)
    assert row["process"].endswith(f" {os.getpid()}")
    assert row["end_mb"] > 10.0
    assert row["files_end"] > 0


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["ray::ServeReplica:drafthouse:Gateway"], "gateway"),
        (["ray::ServeReplica:drafthouse:VerifierReplica.handle_request"], "verifierreplica"),
        (["ray::ProxyActor.run"], "ray::ProxyActor"),
        (["/usr/bin/python3.11", "-u", "/a/ray/dashboard/dashboard.py", "--x"], "dashboard/dashboard.py"),
        (["/a/gcs/gcs_server", "--log"], "gcs_server"),
        (["/usr/bin/python", "-c", "main()"], "python"),
        ([], "?"),
    ],
)
def test_processes_have_short_names(command: list[str], name: str) -> None:
    assert name_of(command) == name
