"""The HTTP API's own description at /openapi.json, in OpenAPI 3.1, and as a page at /docs.

Promises: it is made from the routes, from the models that check requests and make answers, and from whether API keys are on.
Every status but 499, which no one reads, stands there. OPTIONS is answered on every path, and stands on none.
"""

import json
import warnings
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, Response
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

import drafthouse
from deployments.api.anthropic.errors import PATHS as MESSAGES_PATHS
from deployments.api.anthropic.errors import MessagesErrorBody
from deployments.api.anthropic.schema import CountTokensRequest, MessagesRequest
from deployments.api.openai.answers import Response as Answer
from deployments.api.openai.chat_schema import ChatRequest
from deployments.api.openai.docs_page import docs_page, page_response
from deployments.api.openai.errors import ErrorBody
from deployments.api.openai.schema import CompletionRequest
from deployments.api.openai.text_schema import DetokenizeRequest, TokenizeRequest
from deployments.api.responses.events import EVENT_KINDS
from deployments.api.responses.objects import ResponseObject
from deployments.api.responses.schema import ResponsesRequest

READ = ["GET", "HEAD"]

OPEN_PATHS = frozenset({"/health", "/health/live", "/health/ready"})
"""Served without an API key."""

OPEN_ROUTES = OPEN_PATHS | {"/console", "/console/{name}"}

BODIES = (
    CompletionRequest, ChatRequest, ResponsesRequest, TokenizeRequest, DetokenizeRequest, MessagesRequest, CountTokensRequest,
)  # fmt: skip
REFERENCE = "#/components/schemas/{model}"
SECURITY = "api_key"
UNUSED = frozenset({"HTTPValidationError", "ValidationError"})
"""FastAPI's own errors: none of its checks is in use."""

RETRY_AFTER = {"Retry-After": {"description": "seconds until a place is expected", "schema": {"type": "integer"}}}
SEED = {"x-drafthouse-seed": {"description": "the seed, drawn if there was none", "schema": {"type": "string"}}}
HTML_PAGE = {"content": {"text/html; charset=utf-8": {"schema": {"type": "string"}}}}
Responses = dict[int | str, dict[str, Any]]


def errors_of(*statuses: int, kind: type[BaseModel] = ErrorBody) -> Responses:
    """What a route's `responses` say of its errors, whose bodies are of `kind`."""
    return {status: _error(status, kind) for status in statuses}


def _error(status: int, kind: type[BaseModel]) -> dict[str, Any]:
    more = {"headers": RETRY_AFTER} if status in (429, 503) else {}
    return {"model": kind, "description": HTTPStatus(status).phrase, **more}


def event_of(kinds: Sequence[type[BaseModel]], *others: dict[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """The form of a stream's events, whose data are JSON of `kinds` or one of `others`; `fields` stand beside the data. Its name,
    `itemSchema`, is of OpenAPI 3.2, which says nothing else of streams than 3.1; FastAPI writes it, too."""
    schema = {"anyOf": [{"$ref": REFERENCE.format(model=kind.__name__)} for kind in kinds]}
    data = {"contentMediaType": "application/json", "contentSchema": schema}
    properties = {**fields, "data": {"type": "string", "anyOf": [data, *others]}}
    return {"type": "object", "required": list(properties), "properties": properties}


def generation_responses(
    kind: type[BaseModel], event: dict[str, Any], what: str = "the text", fault: type[BaseModel] = ErrorBody
) -> Responses:
    """Of a route that generates: an answer of `kind`, or events; errors have the form of `fault`. `what` is generated, in words."""
    whole = {
        "model": kind,
        "description": f"{what}: whole, or in events with stream: true",
        "content": {"text/event-stream": {"itemSchema": event}},
        "headers": SEED,
    }
    return {200: whole, **errors_of(400, 404, 408, 413, 415, 429, 500, 503, kind=fault)}


GENERATION_RESPONSES = generation_responses(Answer, event_of((Answer, ErrorBody), {"const": "[DONE]"}, fields={}))
RESPONSE_RESPONSES = generation_responses(ResponseObject, event_of(EVENT_KINDS, fields={"event": {"type": "string"}}))


def json_body(kind: type[BaseModel]) -> dict[str, Any]:
    """A route's `openapi_extra`: its body, which the route reads itself, within limits."""
    schema = {"$ref": REFERENCE.format(model=kind.__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def add_document(app: FastAPI, model: str, keys: bool) -> None:
    """Serves the document of all routes that `app` has by now, as JSON and as a page. `keys`: whether they ask for API keys."""

    @app.api_route("/openapi.json", methods=READ, responses={200: {"model": dict[str, Any]}})
    async def openapi() -> Response:
        """This document."""
        return Response(data, media_type="application/json")

    @app.api_route("/docs", methods=READ, responses={200: HTML_PAGE}, response_class=HTMLResponse)
    async def docs() -> Response:
        """This document as a page to read."""
        return page_response(page)

    whole = document(app, model, keys)
    data, page = json.dumps(whole).encode(), docs_page(whole)


def document(app: FastAPI, model: str, keys: bool) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Duplicate Operation ID")  # of GET and HEAD; see _finish
        whole = get_openapi(title=app.title, version=drafthouse.__version__, routes=app.routes)
    schemas = {name: schema for name, schema in whole["components"]["schemas"].items() if name not in UNUSED}
    whole["components"]["schemas"] = schemas | _bodies(model)
    if keys:
        whole["components"]["securitySchemes"] = {SECURITY: {"type": "http", "scheme": "bearer"}}
    for path, operations in whole["paths"].items():
        for method, operation in operations.items():
            faults = MessagesErrorBody if path in MESSAGES_PATHS else ErrorBody
            _finish(operation, method, keys and path not in OPEN_ROUTES, faults)
    return whole


def _bodies(model: str) -> dict[str, Any]:
    """Schemas of what is sent, and of events; any other name than that of the one `model` is an error."""
    _, named = models_json_schema([(kind, "validation") for kind in BODIES], ref_template=REFERENCE)
    _, events = models_json_schema([(kind, "serialization") for kind in EVENT_KINDS], ref_template=REFERENCE)
    schemas: dict[str, Any] = named["$defs"] | events["$defs"]
    for kind in BODIES:
        schemas[kind.__name__]["properties"]["model"]["const"] = model
    return schemas


def _finish(operation: dict[str, Any], method: str, secured: bool, faults: type[BaseModel]) -> None:
    """`faults`: what its errors are."""
    operation["responses"].pop("422", None)  # what FastAPI checks itself, a name in a path, has no faults
    if secured:
        operation["security"] = [{SECURITY: []}]
        schema = {"$ref": REFERENCE.format(model=faults.__name__)}
        content = {"application/json": {"schema": schema}}
        operation["responses"]["401"] = {"description": HTTPStatus(401).phrase, "content": content}
    if method == "head":
        operation["operationId"] = f"head_{operation['operationId']}"
        for response in operation["responses"].values():
            response.pop("content", None)
