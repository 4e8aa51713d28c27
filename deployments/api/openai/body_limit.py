"""Bounds on what a client may send and how long it may take, held before anything is parsed.

Promises: no more than `max_bytes` of a body, and no body that takes longer than `timeout_s`, reaches the application;
the answers are 413 and 408. A body that says its length is refused unread.
"""

import asyncio
import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from drafthouse.errors import TOO_LARGE, RequestError


class BodyLimit:
    """The errors of a body that is too long or too slow are raised where the application reads it."""

    def __init__(self, app: ASGIApp, max_bytes: int, timeout_s: float) -> None:
        self._app, self._max_bytes, self._timeout_s = app, max_bytes, timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        said = Headers(scope=scope).get("content-length", "")
        too_long = said.isdecimal() and int(said) > self._max_bytes
        await self._app(scope, self._bounded(receive, too_long), send)

    def _bounded(self, receive: Receive, too_long: bool) -> Receive:
        read, complete, deadline = 0, False, time.monotonic() + self._timeout_s

        async def bounded() -> Message:
            nonlocal read, complete
            if too_long:
                raise self._too_long()
            if complete:  # what is waited for now is the end of the connection
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                raise RequestError(f"the body did not arrive within {self._timeout_s:g} s", code="request_timeout", status=408) from None
            read += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if read > self._max_bytes:
                raise self._too_long()
            return message

        return bounded

    def _too_long(self) -> RequestError:
        message = f"the body has more than {self._max_bytes} bytes, the limit of this server (gateway.max_body_bytes)"
        return RequestError(message, code=TOO_LARGE, status=413)
