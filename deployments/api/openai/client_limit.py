"""Limits of clients in front of the generation routes.

Promises: who has no request left gets 429 before a body is read; every answer of these routes, errors included, says what is left;
what was counted as running ends with the answer, however that ends.
"""

from typing import Any

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.api.openai.errors import error_response
from deployments.gateway.client_limits import UNLIMITED, ClientRequest
from deployments.gateway.inference_service import InferenceService
from drafthouse.errors import LimitError

PATHS = frozenset({"/v1/completions", "/v1/chat/completions"})
CACHE_KEY, COUNTED = "cache_key", "counted"


def address(connection: str, forwarded: str | None, proxy_hops: int) -> str:
    """The client's: what the last of `proxy_hops` trusted proxies saw, or the connection's where there are none or the header is too short.

    Each proxy adds the address that it saw to the right of x-forwarded-for; what stands further left is the client's own word.
    """
    seen = [part.strip() for part in (forwarded or "").split(",") if part.strip()]
    return seen[-proxy_hops] if 0 < proxy_hops <= len(seen) else connection


class ClientLimit:
    def __init__(self, app: ASGIApp, service: InferenceService, proxy_hops: int) -> None:
        self._app, self._service, self._proxy_hops = app, service, proxy_hops

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in PATHS:
            await self._app(scope, receive, send)
            return
        state: dict[str, Any] = scope.setdefault("state", {})
        cache_key = state.get(CACHE_KEY, "")
        counted = state[COUNTED] = self._service.limits.begin(cache_key or self._address(scope))

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(counted.headers())
            await send(message)

        try:
            await self._service.enter(counted, cache_key)
            await self._app(scope, receive, send_with_headers)
        except LimitError as error:
            await error_response(error)(scope, receive, send_with_headers)
        finally:
            counted.end()

    def _address(self, scope: Scope) -> str:
        connection = scope["client"][0] if scope.get("client") else ""
        return address(connection, ",".join(Headers(scope=scope).getlist("x-forwarded-for")), self._proxy_hops)


def cache_key_of(request: Request) -> str:
    """Empty without API keys: the traffic is no one's."""
    return str(getattr(request.state, CACHE_KEY, ""))


def counted_of(request: Request) -> ClientRequest:
    counted: ClientRequest = getattr(request.state, COUNTED, UNLIMITED)
    return counted
