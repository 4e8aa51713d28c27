"""A server under fuzz: its ports one after the other, and whether it is as it was before.

Promises: every input's outcome is counted; what is left at the end is read once replicas have reported after the last input.
"""

import asyncio
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
import httpx

from benchmarks.cancel.bench import in_use, reported_cluster, until_free
from benchmarks.harness.paced_server import sums
from drafthouse.wire.transport import Transport
from tests.fuzz.findings import Finding, Findings, Outcome
from tests.fuzz.grpc_ports import DataPlanePort, GatewayPort
from tests.fuzz.http_bytes import HttpBytes
from tests.fuzz.http_cases import HttpCases
from tests.fuzz.seeds import PROMPT, by_method, from_gateways, from_verifiers
from tests.fuzz.tcp_port import TcpPort

ROLES = {"Verifier": "verifier", "Drafter": "drafter"}
VOCAB_SIZE = 4096
SHARES = {"cases": 0.35, "bytes": 0.1, "grpc": 0.2, "Verifier": 0.15, "Drafter": 0.15, "tcp": 0.05}
"""Of the inputs, by kind of port."""


class Port(Protocol):
    name: str

    async def send(self, number: int) -> tuple[Outcome, str]:
        """What became of the input of this number, and what it was."""


@dataclass(frozen=True)
class Target:
    """Where a cluster listens, and what its clients must show."""

    url: str
    grpc: str
    headers: Mapping[str, str]
    transport: Transport


@dataclass(frozen=True)
class Counts:
    """`inputs` over all ports, of which those are sent whose name begins with `only`."""

    inputs: int
    in_flight: int
    seed: int
    only: str = ""


async def fuzz_port(port: Port, count: int, in_flight: int, findings: Findings, done: Callable[[], None]) -> None:
    """`count` inputs, so many at a time."""
    numbers = itertools.count()

    async def worker() -> None:
        while (number := next(numbers)) < count:
            outcome, sent = await port.send(number)
            findings.add(port.name, number, outcome, sent)
            done()

    await asyncio.gather(*(worker() for _ in range(in_flight)))


async def fuzz_cluster(target: Target, counts: Counts, findings: Findings, done: Callable[[], None]) -> dict[str, Any]:
    """What is left in the cluster, with what was found added to `findings`."""
    async with httpx.AsyncClient(base_url=target.url, headers=dict(target.headers), timeout=None, trust_env=False) as client:
        document = (await client.get("/openapi.json")).raise_for_status().json()
        model = (await client.get("/v1/models")).raise_for_status().json()["data"][0]["id"]
        before = await reported_cluster(client)
        text = await _text(client, model)
        async with grpc.aio.insecure_channel(target.grpc) as public:
            for port, share in _ports(target, client, public, document, model, before, counts.seed):
                if port.name.startswith(counts.only):
                    await fuzz_port(port, round(share * counts.inputs), counts.in_flight, findings, done)
        seconds, after = await until_free(client)
        _compare(findings, "processes", pids(before), pids(after))
        _compare(findings, "faults of engines", engine_faults(before), engine_faults(after))
        _compare(findings, "in use", dict.fromkeys(in_use(after), 0.0), in_use(after))
        _compare(findings, "the text of one prompt", text, await _text(client, model))
    return {"in_use": in_use(after), "seconds_until_reported_free": seconds, "pids": pids(after)}


def _ports(
    target: Target, client: httpx.AsyncClient, public: grpc.aio.Channel, document: Mapping[str, Any], model: str, state: Mapping[str, Any],
    seed: int,
) -> Sequence[tuple[Port, float]]:  # fmt: skip
    """With the share of inputs of each."""
    metadata = [(name.lower(), value) for name, value in target.headers.items()]
    ports: list[tuple[Port, float]] = [
        (HttpCases(client, document, seed), SHARES["cases"]),
        (HttpBytes(client, model, seed), SHARES["bytes"]),
        (GatewayPort(public, metadata, by_method(model), seed), SHARES["grpc"]),
    ]
    addresses = [target.url.rpartition("/")[2], target.grpc]
    for service, role in ROLES.items():
        seeds = from_gateways() if service == "Verifier" else from_verifiers(VOCAB_SIZE)
        replicas = [replica["address"] for replica in state["pools"][role]]
        addresses += replicas
        for address in replicas:
            port = DataPlanePort(service, target.transport.channel(address), seeds, seed)
            ports.append((port, SHARES[service] / len(replicas)))
    return ports + [(TcpPort(address, seed), SHARES["tcp"] / len(addresses)) for address in addresses]


def engine_faults(state: Mapping[str, Any]) -> dict[str, float]:
    """What made an engine raise, so far."""
    return {name: sums(state, role).get(name, 0.0) for role, name in (("verifier", "step_faults"), ("drafter", "pass_faults"))}


def pids(state: Mapping[str, Any]) -> dict[str, list[int]]:
    """Of all replicas, by role."""
    found = {role: sorted(replica["pid"] for replica in replicas) for role, replicas in state["pools"].items()}
    return found | {"controller": [state["controller"]["pid"]]}


def _compare(findings: Findings, what: str, before: object, after: object) -> None:
    if before != after:
        findings.found(Finding("the cluster afterwards", 0, f"{what}: {before} before, {after} after", ""))


async def _text(client: httpx.AsyncClient, model: str) -> str:
    body = {"model": model, "prompt": PROMPT, "max_tokens": 32, "seed": 5, "temperature": 0.8}
    answer = await client.post("/v1/completions", json=body)
    return str(answer.json()["choices"][0]["text"]) if answer.status_code == 200 else f"status {answer.status_code}"
