"""The HTTP API: OpenAI's completions and chat; what else there is stands in `status` and `openapi`.

Promises: an error before the first token has its own status; after it, the error is the stream's
last event but one. The first token leaves as soon as it is there. A client that goes away cancels
its generation. With API keys on, all but OPEN_PATHS and the console's files asks for one before the body is read. FastAPI reads
the annotations of these routes, so they must not be postponed here.
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.api.answering import answer
from deployments.api.anthropic.errors import PATHS as MESSAGES_PATHS
from deployments.api.anthropic.routes import add_messages
from deployments.api.console.routes import add_console
from deployments.api.openai.body import Body, most_values, parse_body, parse_json, read_body
from deployments.api.openai.body_limit import BodyLimit
from deployments.api.openai.chat_schema import ChatRequest
from deployments.api.openai.choices_form import ChoicesForm
from deployments.api.openai.client_limit import CACHE_KEY, ClientLimit, address_of, arrival_of, cache_key_of
from deployments.api.openai.errors import error_response, install_error_handlers
from deployments.api.openai.openapi import GENERATION_RESPONSES, OPEN_PATHS, READ, add_document, json_body
from deployments.api.openai.responses import Answerer
from deployments.api.openai.schema import CompletionRequest
from deployments.api.openai.sending import Sending
from deployments.api.openai.status import Metrics, Snapshot, add_status
from deployments.api.openai.text_routes import add_text_routes
from deployments.api.responses.routes import add_responses
from deployments.gateway.inference_service import InferenceService
from deployments.gateway.key_refusals import KeyRefusals
from drafthouse.config.serving import GatewayConfig
from drafthouse.errors import RequestError
from drafthouse.security.api_keys import ApiKeys

ALLOWED = [*READ, "POST"]
SHOWN = ["x-request-id", "x-drafthouse-seed", "x-drafthouse-synthetic", "x-drafthouse-note", "retry-after"]
"""Headers of answers that pages of other origins may read."""

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


class ApiKeyGate:
    """Lets nothing through without a key, neither routes nor bodies nor unknown paths; only OPEN_PATHS, for load balancers, and the
    console's files are open.

    What comes through carries its key's hash, under which its traffic may be remembered (`cache_key_of`).
    """

    def __init__(self, app: ASGIApp, keys: ApiKeys, refusals: KeyRefusals, proxy_hops: int, open_paths: frozenset[str]) -> None:
        self._app, self._keys, self._refusals, self._proxy_hops, self._open_paths = app, keys, refusals, proxy_hops, open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in self._open_paths:
            try:
                scope.setdefault("state", {})[CACHE_KEY] = self._keys.check(_key_said(scope))
            except RequestError as error:
                self._refusals.refused(address_of(scope, self._proxy_hops), error)
                await error_response(error, scope["path"])(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _key_said(scope: Scope) -> str | None:
    """As the header `authorization` has it. Anthropic's clients send a key as `x-api-key`."""
    headers = Headers(scope=scope)
    key = headers.get("x-api-key") if scope["path"] in MESSAGES_PATHS else None
    return headers.get("authorization", f"Bearer {key}" if key else None)


def build_http_app(
    service: InferenceService,
    snapshot: Snapshot,
    lifespan: Lifespan,
    keys: ApiKeys | None,
    config: GatewayConfig,
    metrics: Metrics,
    refusals: KeyRefusals,
) -> FastAPI:
    """`snapshot` asks the controller for /v1/cluster, `metrics` makes the page of /metrics; without `keys` the API is open."""
    app = FastAPI(
        title="Drafthouse", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None,
        generate_unique_id_function=lambda route: route.name,
    )  # fmt: skip
    install_error_handlers(app)
    open_paths = OPEN_PATHS | (add_console(app) if config.console else frozenset())
    app.add_middleware(Sending, keep_alive_s=config.keep_alive_s, write_timeout_s=config.write_timeout_s)
    app.add_middleware(BodyLimit, max_bytes=config.max_body_bytes, timeout_s=config.body_timeout_s)
    app.add_middleware(ClientLimit, service=service, proxy_hops=config.limits.proxy_hops)
    if keys is not None:  # what is added last comes first
        app.add_middleware(ApiKeyGate, keys=keys, refusals=refusals, proxy_hops=config.limits.proxy_hops, open_paths=open_paths)
    if config.cors_origins:  # a browser's question carries no key
        app.add_middleware(
            CORSMiddleware, allow_origins=config.cors_origins, allow_methods=ALLOWED, allow_headers=["*"], expose_headers=SHOWN
        )
    _add_generation(app, service, config.keep_alive_s)
    add_responses(app, service, partial(_read, service), config.keep_alive_s)
    add_messages(app, service, partial(_read, service), config.keep_alive_s)
    add_text_routes(app, service, partial(_read, service))
    add_status(app, service, snapshot, metrics, keys)
    add_document(app, service.planner.model, keys is not None)
    return app


def _add_generation(app: FastAPI, service: InferenceService, keep_alive_s: float) -> None:
    planner = service.planner

    @app.post("/v1/completions", responses=GENERATION_RESPONSES, openapi_extra=json_body(CompletionRequest))
    async def completions(request: Request) -> Response:
        """The text after a prompt, whole or as it is committed."""
        size, body = await _read(service, request, CompletionRequest)
        plan, deltas = await arrival_of(request).begin(partial(planner.completion, body), size)
        answerer = Answerer(plan, planner.model, False, planner.codec.token_bytes)
        return await answer(request, plan, deltas, ChoicesForm(answerer, plan, body), bool(body.stream), keep_alive_s)

    @app.post("/v1/chat/completions", responses=GENERATION_RESPONSES, openapi_extra=json_body(ChatRequest))
    async def chat_completions(request: Request) -> Response:
        """The next message of a chat, whole or as it is committed."""
        size, body = await _read(service, request, ChatRequest)
        plan, deltas = await arrival_of(request).begin(partial(planner.chat, body), size)
        answerer = Answerer(plan, planner.model, True, planner.codec.token_bytes)
        return await answer(request, plan, deltas, ChoicesForm(answerer, plan, body), bool(body.stream), keep_alive_s)


async def _read(service: InferenceService, request: Request, kind: type[Body]) -> tuple[int, Body]:
    """(bytes, body). Raises RequestError, and ClientDisconnect."""
    planner = service.planner
    max_values = most_values(planner.metadata.context_tokens)
    try:
        data = await read_body(request)
        ignore = planner.api.unknown_fields == "ignore"
        body = await service.in_thread(lambda: parse_body(kind, parse_json(data, max_values), planner.model, ignore), len(data))
        return len(data), body
    except RequestError as error:
        service.turned_away(error, cache_key_of(request))
        raise
