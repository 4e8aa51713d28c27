"""The HTTP API's gate: no key, no answer.

Promises: it stands in front of routes, bodies and unknown paths; only load balancers' /health is open. What
comes through carries its key's hash, under which its traffic may be remembered (`cache_key_of`).
"""

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.api.openai.errors import error_response
from drafthouse.errors import RequestError
from drafthouse.security.api_keys import ApiKeys

OPEN_PATHS = frozenset({"/health"})
CACHE_KEY = "cache_key"


class ApiKeyGate:
    def __init__(self, app: ASGIApp, keys: ApiKeys) -> None:
        self._app, self._keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            try:
                scope.setdefault("state", {})[CACHE_KEY] = self._keys.check(Headers(scope=scope).get("authorization"))
            except RequestError as error:
                await error_response(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def cache_key_of(request: Request) -> str:
    """Empty without API keys: there is nobody whose traffic it would be."""
    return str(getattr(request.state, CACHE_KEY, ""))
