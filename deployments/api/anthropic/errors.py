"""Errors as Anthropic's clients know them: {"type": "error", "error": {"type", "message"}}."""

from typing import Literal

from pydantic import BaseModel

PATHS = frozenset({"/v1/messages", "/v1/messages/count_tokens"})
"""Of Anthropic's API: their errors have this form, and they take a key as `x-api-key`, too."""

TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
"""By HTTP status. Others below 500 are the request's fault, all above the server's."""


class MessagesFault(BaseModel):
    type: str
    message: str


class MessagesErrorBody(BaseModel):
    type: Literal["error"] = "error"
    error: MessagesFault


def error_body(status: int, message: str) -> MessagesErrorBody:
    kind = TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    return MessagesErrorBody(error=MessagesFault(type=kind, message=message))
