"""What the HTTP API says of itself: the model that it serves, its health, the cluster's state, how texts came about.

FastAPI reads the annotations of these routes, so they must not be postponed here.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from pydantic import BaseModel, ConfigDict

from deployments.api.openai.client_limit import cache_key_of
from deployments.api.openai.errors import NoControllerError, error_response
from deployments.api.openai.openapi import READ, errors_of
from deployments.api.openai.schema import check_model
from deployments.api.trace_form import RequestTrace, request_trace
from deployments.gateway.inference_service import InferenceService
from deployments.gateway.request_planner import RequestPlanner
from drafthouse import __version__
from drafthouse.errors import RequestError
from drafthouse.security.api_keys import ApiKeys
from drafthouse.wire.fields import MAX_SHOWN_CHARS

SNAPSHOT_TIMEOUT_S = 2.0

NODE_BYTES = 150
"""Of a trace's node in JSON."""

TEXT_FORMAT = "text/plain; version=0.0.4"
METRICS_PAGE = {"description": "Prometheus' text format", "content": {TEXT_FORMAT: {"schema": {"type": "string"}}}}

PLACES = frozenset({"pid", "address", "node", "ranks"})
"""What of a replica in /v1/cluster is for operators alone: processes, and where the data plane listens."""

Metrics = Callable[[], Awaitable[str]]
Snapshot = Callable[[], Awaitable[dict[str, Any]]]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SamplingDefaults(_Answer):
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float


class ModelCard(_Answer):
    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "drafthouse"
    max_model_len: int  # tokens, prompt and output together
    context_length: int  # the same, by the name that other clients read
    sampling_defaults: SamplingDefaults  # of what a request leaves open


class ModelList(_Answer):
    object: Literal["list"] = "list"
    data: list[ModelCard]


class Version(_Answer):
    version: str


class Live(_Answer):
    status: Literal["ok"] = "ok"


class Ready(_Answer):
    status: Literal["ok"] = "ok"
    verifiers: int


class Unready(_Answer):
    status: Literal["unavailable"] = "unavailable"
    reason: str


def add_status(app: FastAPI, service: InferenceService, snapshot: Snapshot, metrics: Metrics, keys: ApiKeys | None) -> None:
    _add_models(app, service)
    _add_health(app, service)
    _add_metrics(app, metrics, keys)
    _add_traces(app, service)

    @app.api_route("/v1/cluster", methods=READ, responses={200: {"model": dict[str, Any]}, **errors_of(503)})
    async def cluster(request: Request) -> Response:
        """What the controller knows of all replicas."""
        try:
            state = {"model": service.planner.model, **await asyncio.wait_for(_awaited(snapshot), SNAPSHOT_TIMEOUT_S)}
            operator = keys is None or keys.is_operator(cache_key_of(request))
            return JSONResponse(state if operator else without_places(state))
        except Exception as error:  # fault boundary: Ray raises many kinds for a controller that is gone
            return error_response(NoControllerError(f"the controller does not answer: {type(error).__name__}"), request.url.path)


def model_card(planner: RequestPlanner) -> ModelCard:
    """Of the one model."""
    metadata = planner.metadata
    defaults = SamplingDefaults(**{name: getattr(metadata.sampling_defaults, name) for name in SamplingDefaults.model_fields})
    context = metadata.context_tokens
    return ModelCard(id=planner.model, max_model_len=context, context_length=context, sampling_defaults=defaults)


def _add_models(app: FastAPI, service: InferenceService) -> None:
    planner = service.planner
    card = model_card(planner)

    @app.api_route("/v1/models", methods=READ)
    async def models() -> ModelList:
        """The one model of this server."""
        return ModelList(data=[card])

    @app.api_route("/v1/models/{name:path}", methods=READ, responses=errors_of(404))
    async def one_model(name: str) -> ModelCard | ModelList:
        """A model by its name; without one, the list."""
        if not name:
            return await models()
        check_model(name, planner.model)
        return card


def _add_health(app: FastAPI, service: InferenceService) -> None:
    @app.api_route("/health/live", methods=READ)
    async def live() -> Live:
        """Whether the gateway's event loop runs."""
        return Live()

    @app.api_route("/health/ready", methods=READ, responses={200: {"model": Ready}, 503: {"model": Unready}})
    async def ready() -> Response:
        """Whether the gateway knows a verifier, and if not, why."""
        verifiers = len(service.link.routes)
        if not verifiers:
            return JSONResponse(Unready(reason="no verifier is known: none runs yet, or all are gone").model_dump(), 503)
        return JSONResponse(Ready(verifiers=verifiers).model_dump())

    @app.api_route("/health", methods=READ, responses={200: {"model": Ready}, 503: {"model": Unready}})
    async def health() -> Response:
        """The same as /health/ready, where other engines have it."""
        return await ready()


def _add_metrics(app: FastAPI, metrics: Metrics, keys: ApiKeys | None) -> None:
    @app.api_route("/version", methods=READ)
    async def version() -> Version:
        """Of Drafthouse."""
        return Version(version=__version__)

    @app.api_route("/metrics", methods=READ, responses={200: METRICS_PAGE, **errors_of(403)})
    async def page(request: Request) -> Response:
        """All replicas' metrics. For operators: they show the traffic of each key."""
        if keys is not None and not keys.is_operator(cache_key_of(request)):
            raise RequestError("/metrics is for operators' keys", code="not_an_operator", status=403)
        return PlainTextResponse(await metrics(), media_type=TEXT_FORMAT)


def _add_traces(app: FastAPI, service: InferenceService) -> None:
    @app.api_route("/v1/requests/{request_id}/trace", methods=READ, responses={200: {"model": RequestTrace}, **errors_of(404)})
    async def trace(request_id: str, request: Request) -> Response:
        """The steps of a request that asked for its trace: the latest ones, also while it runs."""
        kept = service.traces.find(request_id, cache_key_of(request))
        if kept is None:
            name = repr(request_id[:MAX_SHOWN_CHARS])
            message = f"this gateway has no trace of a request {name}: ask for it with speculation.trace, and soon, at the same gateway"
            raise RequestError(message, "request_id", "trace_not_found", 404)
        now = kept.snapshot()
        data = await service.in_thread(lambda: request_trace(now, request_id).model_dump_json(), NODE_BYTES * now.nodes)
        return Response(data, media_type="application/json")


def without_places(state: dict[str, Any]) -> dict[str, Any]:
    """The cluster's state for those who use it and do not run it: how it is loaded, and not where it runs."""

    def shown(replica: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in replica.items() if name not in PLACES}

    pools = {role: [shown(replica) for replica in replicas] for role, replicas in state["pools"].items()}
    return {name: value for name, value in state.items() if name != "controller"} | {"pools": pools}


async def _awaited(snapshot: Snapshot) -> dict[str, Any]:
    return await snapshot()
