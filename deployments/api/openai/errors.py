"""Errors as OpenAI's clients know them: {"error": {"message", "type", "param", "code"}}.

Promises: every error of the HTTP API has this shape, or Anthropic's on the paths of its API, and a fitting status; 429 and 503 carry
Retry-After, which for 429 is when a place is expected, 401 WWW-Authenticate; an unforeseen error says
nothing of its inside to the client, and is logged.
"""

import logging
import math
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from deployments.api.anthropic.errors import PATHS as MESSAGES_PATHS
from deployments.api.anthropic.errors import error_body
from deployments.gateway.verifier_link import GenerationError, NoVerifierError
from drafthouse.errors import DrafthouseError, LimitError, OverloadError, RequestError

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 1
"""Of 503: about the time in which the controller routes a new verifier."""


CLIENT_GONE = 499
"""Nothing reads it; access logs know the number."""

MAX_MESSAGE_CHARS = 1000


class Fault(BaseModel):
    message: str
    type: str
    param: str | None  # the dotted path of the field at fault
    code: str | None


class ErrorBody(BaseModel):
    error: Fault


ABSENT = {"/v1/embeddings": "this server generates text, and has no embeddings; ask one that serves a model for them"}
"""Paths of OpenAI's API that there are none of here, on purpose."""


class NoControllerError(DrafthouseError):
    """The controller does not answer; generation goes on without it."""


KINDS: tuple[tuple[type[Exception], int, str, str], ...] = (
    (LimitError, 429, "rate_limit_error", "rate_limit_exceeded"),
    (OverloadError, 429, "overloaded_error", "overloaded"),
    (NoVerifierError, 503, "unavailable_error", "no_verifier"),
    (NoControllerError, 503, "unavailable_error", "no_controller"),
    (GenerationError, 500, "server_error", "generation_failed"),
)
"""(error, HTTP status, OpenAI's type, code)"""


def describe_error(error: Exception) -> tuple[int, dict[str, Any]]:
    """(HTTP status, body)."""
    if isinstance(error, RequestError):
        return error.status, _body(str(error), "invalid_request_error", error.param, error.code)
    if isinstance(error, HTTPException):
        return error.status_code, _body(str(error.detail), "invalid_request_error", None, _http_code(error.status_code))
    for kind, status, name, code in KINDS:
        if isinstance(error, kind):
            return status, _body(str(error), name, None, code)
    logger.error("unforeseen error", exc_info=error)
    return 500, _body("internal error", "server_error", None, "internal_error")


def error_response(error: Exception, path: str) -> JSONResponse:
    """Of a request for `path`."""
    status, body = describe_error(error)
    if path in MESSAGES_PATHS:
        body = error_body(status, body["error"]["message"]).model_dump()
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if status in (429, 503):
        headers["Retry-After"] = str(math.ceil(error.retry_after_s) if isinstance(error, OverloadError) else RETRY_AFTER_S)
    return JSONResponse(body, status, headers=headers)


def install_error_handlers(app: FastAPI) -> None:
    async def handle(request: Request, error: Exception) -> JSONResponse:
        if isinstance(error, HTTPException) and request.url.path in ABSENT:
            error = RequestError(ABSENT[request.url.path], code="not_found", status=404)
        return error_response(error, request.url.path)

    async def gone(request: Request, error: Exception) -> Response:
        return Response(status_code=CLIENT_GONE)

    for kind in (DrafthouseError, HTTPException, Exception):
        app.add_exception_handler(kind, handle)
    app.add_exception_handler(ClientDisconnect, gone)


def _body(message: str, kind: str, param: str | None, code: str | None) -> dict[str, Any]:
    fault = Fault(message=_utf8(message), type=kind, param=_utf8(param) if param else None, code=code)
    return ErrorBody(error=fault).model_dump()


def _utf8(text: str) -> str:
    """A client's JSON may name fields with lone surrogates, which no answer can carry, and of any length."""
    return text[:MAX_MESSAGE_CHARS].encode(errors="replace").decode()


def _http_code(status: int) -> str:
    return {404: "not_found", 405: "method_not_allowed"}.get(status, "http_error")
