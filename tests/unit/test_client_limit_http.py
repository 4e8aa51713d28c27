"""Limits of clients over HTTP: status, headers, and whose request it is; two gateways and a controller in one process."""

import asyncio
from contextlib import AsyncExitStack

import grpc
import httpx
import pytest

from controller.registry import Registry
from deployments.api.grpc.inference import InferenceApi, address_of
from deployments.api.openai.client_limit import address
from drafthouse.config.security import ApiKeysConfig
from drafthouse.config.serving import ControllerConfig
from drafthouse.errors import OverloadError
from drafthouse.security.api_keys import ApiKeys, generate_key, hash_of
from drafthouse.wire.reports import GatewayReport
from drafthouse.wire.totals import GatewayTotals
from tests.unit.byte_tokenizer import codec
from tests.unit.grpc_gateway import Context
from tests.unit.openai_gateway import CHAT, COMPLETION, IDS, error_of, gateway
from tests.unit.reports import replica
from tests.unit.test_grpc_api import data

TOKENS = len(codec().encode("hello")) + len(IDS)


def client_of(app: object, address: str = "10.0.0.1") -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, client=(address, 1)), base_url="http://test")


def test_the_third_of_two_requests_a_minute_gets_429_and_all_say_what_is_left() -> None:
    async def run() -> None:
        async with gateway(limits={"requests_per_minute": 2, "tokens_per_minute": 1000}) as (app, _), client_of(app) as client:
            first = await client.post("/v1/completions", json=COMPLETION)
            streamed = await client.post("/v1/chat/completions", json=CHAT | {"stream": True})
            refused = await client.post("/v1/completions", content=b"not read", headers={"content-type": "application/json"})
            async with client_of(app, "10.0.0.2") as another:
                assert (await another.post("/v1/completions", json=COMPLETION)).status_code == 200
        assert (first.status_code, streamed.status_code) == (200, 200)
        assert first.headers["x-ratelimit-limit-requests"] == "2"
        assert first.headers["x-ratelimit-remaining-requests"] == "1"
        assert first.headers["x-ratelimit-reset-requests"] in ("60s", "59s", "58s")
        assert first.headers["x-ratelimit-limit-tokens"] == "1000"
        assert first.headers["x-ratelimit-remaining-tokens"] in (str(1000 - TOKENS), str(1000 - 2 * TOKENS))
        assert streamed.headers["x-ratelimit-remaining-requests"] == "0"
        assert error_of(refused) == (429, "rate_limit_error", None, "rate_limit_exceeded")
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"

    asyncio.run(run())


def test_tokens_and_streams_are_refused_as_well() -> None:
    async def run() -> None:
        async with gateway(limits={"tokens_per_minute": TOKENS}) as (app, _), client_of(app) as client:
            too_many = await client.post("/v1/completions", json=COMPLETION | {"max_tokens": len(IDS) + 1})
            assert error_of(too_many) == (400, "invalid_request_error", "max_tokens", "tokens_per_minute_exceeded")
            assert (await client.post("/v1/completions", json=COMPLETION)).status_code == 200
            refused = await client.post("/v1/completions", json=COMPLETION)
            assert (refused.status_code, refused.headers["x-ratelimit-remaining-tokens"]) == (429, "0")
        async with gateway(limits={"streams": 2}) as (app, service), client_of(app) as client:
            assert (await client.post("/v1/completions", json=COMPLETION | {"n": 2})).status_code == 200
            assert error_of(await client.post("/v1/completions", json=COMPLETION | {"n": 3}))[0] == 429
            assert not any(name.startswith("x-ratelimit") for name in (await client.get("/v1/models")).headers)
            totals = service.totals()
            assert (totals.requests, totals.outcome["served"], totals.outcome["refused"]) == (5, 2, 3), "each choice counts"
            (use,) = service.limits.uses().values()
            assert use.used.streams == 0, "what ended runs no more"

    asyncio.run(run())


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/responses", {"model": "demo", "input": "hello", "max_output_tokens": 50}, "max_output_tokens"),
        ("/v1/chat/completions", {"model": "demo", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 50}, "max_tokens"),
    ],
)
def test_more_tokens_than_the_limit_has_names_the_clients_own_field(path: str, body: dict, field: str) -> None:
    async def run() -> None:
        async with gateway(limits={"tokens_per_minute": 50}) as (app, _), client_of(app) as client:
            assert error_of(await client.post(path, json=body)) == (400, "invalid_request_error", field, "tokens_per_minute_exceeded")

    asyncio.run(run())


def test_without_limits_nothing_is_said_or_kept() -> None:
    async def run() -> None:
        async with gateway() as (app, service), client_of(app) as client:
            answer = await client.post("/v1/completions", json=COMPLETION)
            assert not any(name.startswith("x-ratelimit") for name in answer.headers)
            assert service.limits.uses() == {}

    asyncio.run(run())


def test_a_key_is_one_client_wherever_it_comes_from() -> None:
    key = generate_key()
    keys, headers = ApiKeys(ApiKeysConfig(hashes=(hash_of(key),))), {"Authorization": f"Bearer {key}"}

    async def run() -> None:
        async with gateway(keys=keys, limits={"requests_per_minute": 1}) as (app, service):
            for place, status in (("10.0.0.1", 200), ("10.0.0.2", 429)):
                async with client_of(app, place) as client:
                    assert (await client.post("/v1/completions", json=COMPLETION, headers=headers)).status_code == status
            assert list(service.limits.uses()) == [hash_of(key)]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("forwarded", "hops", "client"),
    [
        ("6.6.6.6, 10.1.1.1", 0, "10.0.0.1"),
        ("6.6.6.6, 10.1.1.1", 1, "10.1.1.1"),
        ("6.6.6.6, 10.1.1.1,10.2.2.2", 2, "10.1.1.1"),
        ("10.1.1.1", 2, "10.0.0.1"),
        (None, 1, "10.0.0.1"),
    ],
)
def test_only_a_trusted_proxys_word_on_the_address_counts(forwarded: str | None, hops: int, client: str) -> None:
    assert address("10.0.0.1", forwarded, hops) == client
    metadata = [] if forwarded is None else [("x-forwarded-for", forwarded)]
    assert address_of("ipv4:10.0.0.1:1234", metadata, hops) == client


def test_a_client_cannot_write_a_header_of_its_own_before_the_proxys() -> None:
    async def run() -> None:
        async with gateway(limits={"requests_per_minute": 1, "proxy_hops": 1}) as (app, _), client_of(app) as client:
            for own, status in (("6.6.6.6", 200), ("7.7.7.7", 429)):
                headers = [("x-forwarded-for", own), ("x-forwarded-for", "10.1.1.1")]
                assert (await client.post("/v1/completions", json=COMPLETION, headers=headers)).status_code == status

    asyncio.run(run())


def test_over_grpc_too() -> None:
    async def run() -> None:
        async with gateway(limits={"requests_per_minute": 1}) as (_, service):
            for place, code in (("a", None), ("a", grpc.StatusCode.RESOURCE_EXHAUSTED), ("b", None)):
                context = Context(peer=f"ipv4:{place}:1234")
                await InferenceApi(service).generate(data(), context)
                assert context.set.get("set_code") is code

    asyncio.run(run())


def test_two_gateways_let_through_together_what_the_limit_says() -> None:
    """All requests go to one, then all to the other: 40 a minute are 40, within 10 %."""

    async def run() -> int:
        registry, passed = Registry(ControllerConfig()), 0
        async with AsyncExitStack() as stack:
            sides = [await stack.enter_async_context(gateway(limits={"requests_per_minute": 40})) for _ in range(2)]
            clients = [await stack.enter_async_context(client_of(app)) for app, _ in sides]

            def beat(now: float) -> None:
                for i, (_, service) in enumerate(sides):
                    report = GatewayReport(
                        replica=replica(f"g{i}", ""), load=0, capacity=8, totals=GatewayTotals(), clients=service.limits.uses()
                    )
                    registry.observe(report, now)
                    service.limits.directed(registry.directive_for(report, now))

            for step in range(12):  # past the time in which a new controller listens alone
                beat(step * 0.5)
            for round_ in range(40):
                client = clients[round_ // 20]
                for answer in [await client.post("/v1/completions", json=COMPLETION) for _ in range(2)]:
                    passed += answer.status_code == 200
                beat(6.0 + round_ * 0.5)
        return passed

    assert 36 <= asyncio.run(run()) <= 44


def test_places_that_are_full_are_no_limit_of_the_client() -> None:
    async def run() -> None:
        async with gateway(capacity=1, limits={"streams": 5}) as (app, service), client_of(app) as client:
            with service.places.planning():
                assert error_of(await client.post("/v1/completions", json=COMPLETION))[3] == "overloaded"
            with pytest.raises(OverloadError):
                service.places.take(2)

    asyncio.run(run())
