"""A gateway whose settings change while it answers, over real ASGI and a real verifier stream."""

import asyncio

import httpx
from ray.serve._private.thirdparty.get_asgi_route_name import get_asgi_route_name

from deployments.api.openai.routes import build_http_app
from deployments.gateway.key_refusals import KeyRefusals
from deployments.gateway.replica import CurrentApp
from drafthouse.config.security import ApiKeysConfig
from drafthouse.config.serving import GatewayConfig
from drafthouse.security.api_keys import ApiKeys, hash_of
from tests.unit.openai_gateway import COMPLETION, IDS, JSON, TEXT, gateway, metrics_page, no_lifespan, snapshot
from tests.unit.verifier_double import Served, VerifierDouble

KEY = "dh-0123456789012345678901234567890"


def test_a_stream_that_runs_ends_as_it_began_and_new_requests_find_the_new_settings() -> None:
    async def test() -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def held(index: int, served: Served) -> None:
            if index:
                begun.set()
                await go_on.wait()

        async with gateway(VerifierDouble("a", tokens=lambda request: IDS, before=held)) as (app, service):
            current = CurrentApp(app)
            paths = {route.path for route in current.routes}
            assert get_asgi_route_name(current, {"type": "http", "method": "GET", "path": "/v1/models"}) == "/v1/models"
            async with httpx.AsyncClient(transport=httpx.ASGITransport(current), base_url="http://test", headers=JSON) as client:
                running = asyncio.create_task(client.post("/v1/completions", json=COMPLETION))
                await begun.wait()
                keys = ApiKeys(ApiKeysConfig(hashes=(hash_of(KEY),)))
                config = GatewayConfig(max_body_bytes=1024, cors_origins=["https://chat.example.com"])
                current.app = build_http_app(service, snapshot, no_lifespan, keys, config, metrics_page, KeyRefusals())
                assert (await client.post("/v1/completions", json=COMPLETION)).status_code == 401
                known = {"authorization": f"Bearer {KEY}", "origin": "https://chat.example.com"}
                models = await client.get("/v1/models", headers=known)
                assert (models.status_code, models.headers["access-control-allow-origin"]) == (200, "https://chat.example.com")
                long = await client.post("/v1/completions", json=COMPLETION | {"prompt": "a" * 2000}, headers=known)
                assert long.status_code == 413
                go_on.set()
                answer = await running
                assert (answer.status_code, answer.json()["choices"][0]["text"]) == (200, TEXT)
            assert {route.path for route in current.routes} == paths

    asyncio.run(test())


def test_below_a_route_prefix_it_answers_as_at_the_root() -> None:
    """With its limits of clients, its open paths and its own 404s."""

    async def test() -> None:
        async with gateway(limits={"requests_per_minute": 1}) as (app, _):
            transport = httpx.ASGITransport(CurrentApp(app), root_path="/prefix")
            async with httpx.AsyncClient(transport=transport, base_url="http://test/prefix", headers=JSON) as client:
                answer = await client.post("/v1/completions", json=COMPLETION)
                assert (answer.status_code, answer.headers["x-ratelimit-remaining-requests"]) == (200, "0")
                assert (await client.post("/v1/completions", json=COMPLETION)).status_code == 429
                assert "embeddings" in (await client.post("/v1/embeddings", json={})).json()["error"]["message"]

    asyncio.run(test())
