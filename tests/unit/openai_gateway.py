"""The HTTP API as an ASGI application in front of one verifier's double, over a real verifier stream."""

import asyncio
import json
from contextlib import asynccontextmanager

import httpx

from deployments.api.openai.routes import build_http_app
from deployments.gateway.client_limits import ClientLimits
from deployments.gateway.inference_service import InferenceService
from deployments.gateway.key_refusals import KeyRefusals
from deployments.gateway.request_planner import RequestPlanner
from deployments.gateway.verifier_link import VerifierLink
from drafthouse.config.api import ApiConfig
from drafthouse.config.serving import GatewayConfig
from drafthouse.objective import NO_WISH, UrgencyWish
from tests.unit.byte_tokenizer import CHAT_TEMPLATE, codec, metadata
from tests.unit.verifier_double import VerifierDouble, serving

TEXT = "def add(a, b):\n    return 'é🙂'\n"
IDS = tuple(codec().encode(TEXT))
COMPLETION = {"model": "demo", "prompt": "hello", "max_tokens": len(IDS)}
CHAT = {"model": "demo", "messages": [{"role": "user", "content": "hello"}], "max_tokens": len(IDS)}


@asynccontextmanager
async def no_lifespan(app):
    yield


async def snapshot():
    return {"pools": {}}


async def metrics_page():
    return "ray_drafthouse_gateway_running 0.0\n"


@asynccontextmanager
async def gateway(
    verifier: VerifierDouble | None = None,
    cluster=snapshot,
    capacity: int = 16,
    context_tokens: int = 64,
    keys=None,
    template: str = CHAT_TEMPLATE,
    api: ApiConfig | None = None,
    patience_s: float = 0.05,
    **config,
):
    """(app, service) in front of one verifier, which always says TEXT."""
    settings = GatewayConfig(**config)
    verifiers = [verifier or VerifierDouble("a", tokens=lambda request: IDS)]
    async with serving(*verifiers) as routes:
        link = VerifierLink(patience_s)
        link.update(routes)
        limits = ClientLimits(lambda client: settings.limits)
        planner = RequestPlanner("demo", codec(template), metadata(context_tokens), api)

        def urgency(client: str, asked: UrgencyWish) -> UrgencyWish:
            return settings.urgency.settle(asked, keys.urgency_of(client) if keys is not None else NO_WISH)

        service = InferenceService(planner, link, capacity, limits=limits, urgency=urgency)
        try:
            yield build_http_app(service, cluster, no_lifespan, keys, settings, metrics_page, KeyRefusals()), service
        finally:
            await link.close()


JSON = {"content-type": "application/json"}


def request(
    path: str, body: object = None, content: bytes | None = None, routed: bool = True, headers=JSON, method: str = "", **options
) -> httpx.Response:
    async def run():
        async with gateway(**options) as (app, service):
            if not routed:
                service.link.update(())
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                data = content if body is None else json.dumps(body).encode()
                return await client.request(method or ("GET" if data is None else "POST"), path, content=data, headers=headers)

    return asyncio.run(run())


def events(response: httpx.Response) -> list[dict]:
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    *data, done, rest = response.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(line.removeprefix("data: ")) for line in data]


def error_of(response: httpx.Response) -> tuple[int, str, str | None, str]:
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return response.status_code, error["type"], error["param"], error["code"]
