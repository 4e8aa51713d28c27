"""Whose traffic a request is: the API key's hash, from HTTP and gRPC to the verifier."""

import asyncio
from collections.abc import Awaitable, Callable

import httpx

from deployments.api.grpc.inference import InferenceApi
from deployments.api.openai.routes import build_http_app
from deployments.gateway.inference_service import InferenceService
from deployments.gateway.key_refusals import KeyRefusals
from deployments.gateway.request_planner import RequestPlanner
from deployments.gateway.verifier_link import VerifierLink
from drafthouse.config.security import ApiKeysConfig
from drafthouse.config.serving import GatewayConfig
from drafthouse.security.api_keys import ApiKeys, generate_key, hash_of
from drafthouse.wire.generation_messages import GenerateRequest
from tests.unit.byte_tokenizer import codec, metadata
from tests.unit.grpc_gateway import Context
from tests.unit.openai_gateway import COMPLETION, metrics_page, no_lifespan
from tests.unit.test_grpc_api import data
from tests.unit.verifier_double import VerifierDouble, serving

KEYS = generate_key(), generate_key()
CONFIG = ApiKeysConfig(hashes=tuple(map(hash_of, KEYS)))


def dispatched(call: Callable[[InferenceService], Awaitable[object]]) -> list[GenerateRequest]:
    """What a verifier saw while `call` used a gateway's service."""

    async def run() -> list[GenerateRequest]:
        verifier = VerifierDouble("a")
        async with serving(verifier) as routes:
            link = VerifierLink(patience_s=0.05)
            link.update(routes)
            await call(InferenceService(RequestPlanner("demo", codec(), metadata()), link, 16))
            await link.close()
        return verifier.seen

    return asyncio.run(run())


def over_http(keys: ApiKeys | None, path: str, body: dict[str, object], *headers: dict[str, str]) -> list[str]:
    """Cache keys of the verifier's requests, one HTTP request for each of `headers`."""

    async def call(service: InferenceService) -> None:
        app = build_http_app(service, None, no_lifespan, keys, GatewayConfig(), metrics_page, KeyRefusals())
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            for each in headers:
                assert (await client.post(path, json=body, headers=each)).status_code == 200

    return [request.cache_key for request in dispatched(call)]


def test_each_keys_requests_carry_its_hash_over_http() -> None:
    headers = [{"Authorization": f"Bearer {key}"} for key in KEYS]
    wanted = [hash_of(key) for key in KEYS]
    assert over_http(ApiKeys(CONFIG), "/v1/completions", COMPLETION, *headers) == wanted
    chat = {"model": "demo", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
    assert over_http(ApiKeys(CONFIG), "/v1/chat/completions", chat, *headers) == wanted
    assert over_http(ApiKeys(CONFIG), "/v1/completions", COMPLETION | {"n": 2, "seed": 1}, headers[1]) == [wanted[1]] * 2


def test_without_keys_there_is_nobody_whose_traffic_it_would_be() -> None:
    assert over_http(None, "/v1/completions", COMPLETION, {}, {"Authorization": f"Bearer {KEYS[0]}"}) == ["", ""]


def test_over_grpc_too() -> None:
    keys = ApiKeys(CONFIG)

    async def call(service: InferenceService) -> None:
        for key in KEYS:
            await InferenceApi(service, keys).generate(data(), Context([("authorization", f"Bearer {key}")]))
        await InferenceApi(service).generate(data(), Context())

    assert [request.cache_key for request in dispatched(call)] == [*map(hash_of, KEYS), ""]
