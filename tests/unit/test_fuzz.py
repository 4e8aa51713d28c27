"""The fuzzer's inputs, the short form of it over HTTP, and that it finds faults which are there."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import httpx
import pytest
from google.protobuf.message import DecodeError
from starlette.responses import JSONResponse
from starlette.types import ASGIApp

from deployments.api.grpc.inference import InferenceApi
from drafthouse.wire.dialect import OURS
from protos import dataplane_pb2 as data
from tests.fuzz.findings import Findings
from tests.fuzz.grpc_ports import FAULTY, GatewayPort, message_of
from tests.fuzz.http_bytes import HttpBytes
from tests.fuzz.http_cases import HttpCases
from tests.fuzz.run import Port, fuzz_port
from tests.fuzz.seeds import by_method, from_gateways, from_verifiers, generations
from tests.unit.grpc_gateway import grpc_gateway
from tests.unit.openai_gateway import IDS, gateway
from tests.unit.scoring_double import Scoring

INPUTS = 150


@pytest.mark.parametrize("seeds", [generations("demo"), from_gateways(), from_verifiers(256)], ids=["public", "verifier", "drafter"])
def test_messages_are_made_again_from_their_seed_and_many_are_still_messages(seeds: list) -> None:
    def made() -> list[bytes]:
        rng = random.Random(7)
        return [message_of(seeds, rng, FAULTY) for _ in range(500)]

    messages, read = made(), 0
    assert messages == made()
    assert len(set(messages)) > 300
    for message in messages:
        try:
            type(seeds[0])().ParseFromString(message)
            read += 1
        except DecodeError:
            pass
    assert 200 < read < 480


def test_every_field_of_a_session_becomes_extreme() -> None:
    rng, seeds, changed = random.Random(3), from_verifiers(256), set()
    (valid,) = seeds[1].messages
    names = {field.name for field in data.Open.DESCRIPTOR.fields}
    for _ in range(3000):
        batch = data.ToDrafter()
        try:
            batch.ParseFromString(message_of(seeds[1:2], rng, FAULTY))
        except DecodeError:
            continue
        for message in batch.messages:
            changed |= {name for name in names if differs(message.open, valid.open, name)}
    assert changed == names


def differs(one: data.Open, other: data.Open, field: str) -> bool:
    return str(getattr(one, field)) != str(getattr(other, field))


def test_no_input_over_grpc_gets_the_answer_of_a_server_that_fails() -> None:
    async def run() -> Findings:
        findings = Findings()
        async with gateway(Scoring("a", tokens=lambda r: IDS, says=OURS.metadata())) as (_, service):
            async with grpc_gateway(InferenceApi(service)) as channel:
                await fuzz_port(GatewayPort(channel, (), by_method("demo"), seed=1), 2 * INPUTS, 4, findings, lambda: None)
            assert service.running == 0
        return findings

    findings = asyncio.run(run())
    (statuses,) = findings.statuses.values()
    assert statuses["OK"] > 30
    assert statuses["INVALID_ARGUMENT"] > 30
    assert findings.kept == []


def fuzzed(make: Callable[[httpx.AsyncClient, dict], Port], wrapped: Callable[[ASGIApp], ASGIApp] = lambda app: app) -> Findings:
    """Of a gateway in this process, in front of a verifier that always says the same; it holds nothing afterwards."""

    async def run() -> Findings:
        findings = Findings()
        async with gateway(Scoring("a", tokens=lambda r: IDS, says=OURS.metadata())) as (app, service):
            transport = httpx.ASGITransport(wrapped(app), raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=None) as client:
                document = (await client.get("/openapi.json")).json()
                await fuzz_port(make(client, document), INPUTS, 4, findings, lambda: None)
            assert service.running == 0
        return findings

    return asyncio.run(run())


def cases(client: httpx.AsyncClient, document: dict) -> Port:
    return HttpCases(client, document, seed=1)


def mutated(client: httpx.AsyncClient, document: dict) -> Port:
    return HttpBytes(client, "demo", seed=1)


@pytest.mark.parametrize("make", [cases, mutated])
def test_no_input_over_http_gets_an_answer_that_the_document_does_not_know(make: Callable[[httpx.AsyncClient, dict], Port]) -> None:
    findings = fuzzed(make)
    assert findings.inputs() == INPUTS
    (statuses,) = findings.statuses.values()
    assert statuses["200"] > 3
    assert statuses["400"] > 3
    assert findings.kept == []


@pytest.mark.parametrize("make", [cases, mutated])
def test_faults_are_found(make: Callable[[httpx.AsyncClient, dict], Port]) -> None:
    """An application that answers what no document knows, and one that fails."""

    def strange(app: ASGIApp) -> ASGIApp:
        async def wrapped(scope: dict, receive: Callable[[], Awaitable[dict]], send: Callable[[dict], Awaitable[None]]) -> None:
            if scope["path"] == "/openapi.json":
                await app(scope, receive, send)
            else:
                await JSONResponse({"detail": "no"}, 418)(scope, receive, send)

        return wrapped

    def failing(app: ASGIApp) -> ASGIApp:
        async def wrapped(scope: dict, receive: Callable[[], Awaitable[dict]], send: Callable[[dict], Awaitable[None]]) -> None:
            if scope["path"] == "/openapi.json":
                await app(scope, receive, send)
            else:
                await JSONResponse({}, 500)(scope, receive, send)

        return wrapped

    for wrong, words in ((strange, ""), (failing, "status 500")):
        findings = fuzzed(make, wrong)
        assert findings.kinds.total() > INPUTS / 2
        assert words in findings.kept[-1].fault
