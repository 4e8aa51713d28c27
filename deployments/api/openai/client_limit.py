"""Limits of clients in front of the generation routes.

Promises: who has no request left gets 429 before a body is read; every answer of these routes, errors included, says what is left;
what was counted as running ends with the answer, however that ends.
"""

from typing import Any

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.api.anthropic.errors import PATHS as MESSAGES_PATHS
from deployments.api.openai.errors import error_response
from deployments.gateway.arrival import Arrival
from deployments.gateway.inference_service import InferenceService
from drafthouse.errors import LimitError

PATHS = frozenset({"/v1/completions", "/v1/chat/completions", "/v1/responses", "/tokenize", "/detokenize"}) | MESSAGES_PATHS
CACHE_KEY, ARRIVAL = "cache_key", "arrival"


def address(connection: str, forwarded: str | None, proxy_hops: int) -> str:
    """The client's: what the last of `proxy_hops` trusted proxies saw, or the connection's where there are none or the header is too short.

    Each proxy adds the address that it saw to the right of x-forwarded-for; what stands further left is the client's own word.
    """
    seen = [part.strip() for part in (forwarded or "").split(",") if part.strip()]
    return seen[-proxy_hops] if 0 < proxy_hops <= len(seen) else connection


def address_of(scope: Scope, proxy_hops: int) -> str:
    """Of the client of this HTTP request."""
    connection = scope["client"][0] if scope.get("client") else ""
    return address(connection, ",".join(Headers(scope=scope).getlist("x-forwarded-for")), proxy_hops)


class ClientLimit:
    def __init__(self, app: ASGIApp, service: InferenceService, proxy_hops: int) -> None:
        self._app, self._service, self._proxy_hops = app, service, proxy_hops

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in PATHS:
            await self._app(scope, receive, send)
            return
        state: dict[str, Any] = scope.setdefault("state", {})
        place, header = address_of(scope, self._proxy_hops), Headers(scope=scope).get
        arrival = state[ARRIVAL] = Arrival(self._service, state.get(CACHE_KEY, ""), place, header)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(arrival.headers())
            await send(message)

        try:
            async with arrival:
                await self._app(scope, receive, send_with_headers)
        except LimitError as error:
            await error_response(error, scope["path"])(scope, receive, send_with_headers)


def cache_key_of(request: Request) -> str:
    """Empty without API keys: the traffic is no one's."""
    return str(getattr(request.state, CACHE_KEY, ""))


def arrival_of(request: Request) -> Arrival:
    """On the generation routes, which this middleware lets through."""
    arrival: Arrival = getattr(request.state, ARRIVAL)
    return arrival
