"""How answers reach a client: streams that wait show life, clients that do not read are let go, HTTP/1.0 gets its answer whole.

Promises: a stream of events that says nothing for `keep_alive_s` sends a comment, which clients skip and proxies in
between take for life; where a client takes nothing for `write_timeout_s`, its request ends, and its verifier's place is free.
A chunk costs no timer of its own.
"""

import asyncio
import logging
import time

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)

COMMENT = b": waiting\n\n"
METHODS = "GET, HEAD, POST, OPTIONS"


class Sending:
    def __init__(self, app: ASGIApp, keep_alive_s: float, write_timeout_s: float) -> None:
        self._app, self._keep_alive_s, self._write_timeout_s = app, keep_alive_s, write_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["method"] == "OPTIONS":  # asked by who wants to know; browsers' questions end in the middleware for CORS
            await Response(status_code=204, headers={"Allow": METHODS})(scope, receive, send)
        elif scope.get("http_version") == "1.0":
            whole = _Whole()
            await self._app(scope, receive, whole.add)
            for message in whole.messages():
                await send(message)
        else:
            await self._watched(scope, receive, send)

    async def _watched(self, scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.current_task()
        assert task is not None
        watch = _StreamWatch(send, task, self._keep_alive_s, self._write_timeout_s)
        try:
            await self._app(scope, receive, watch.send)
        except asyncio.CancelledError:
            if not watch.stalled:
                raise
            task.uncancel()
            logger.warning("a client took nothing of its stream for %g s; its request ends", self._write_timeout_s)
        finally:
            watch.stop()


class _StreamWatch:
    """Of one answer. Only a stream of events is watched."""

    def __init__(self, send: Send, task: "asyncio.Task[object]", keep_alive_s: float, write_timeout_s: float) -> None:
        self._send, self._task, self._keep_alive_s, self._write_timeout_s = send, task, keep_alive_s, write_timeout_s
        self._sending_since: float | None = None
        self._sent = 0.0
        self._watcher: asyncio.Task[None] | None = None
        self.stalled = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.stop_comments()
        self._sending_since = time.monotonic()
        await self._send(message)
        self._sending_since, self._sent = None, time.monotonic()
        if message["type"] == "http.response.start" and _is_stream(message):
            self._watcher = asyncio.create_task(self._watch())

    def stop_comments(self) -> None:
        self._keep_alive_s = float("inf")

    def stop(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()

    async def _watch(self) -> None:
        pause = min(self._keep_alive_s, self._write_timeout_s) / 4
        while True:
            await asyncio.sleep(pause)
            now = time.monotonic()
            if self._sending_since is not None:
                if now - self._sending_since >= self._write_timeout_s:
                    break
            elif now - self._sent >= self._keep_alive_s and not await self._comment():
                break
        self.stalled = True
        self._task.cancel()

    async def _comment(self) -> bool:
        """Between events, each of which is sent whole. False where it is not taken in time."""
        try:
            async with asyncio.timeout(self._write_timeout_s):
                await self._send({"type": "http.response.body", "body": COMMENT, "more_body": True})
        except TimeoutError:
            return False
        self._sent = time.monotonic()
        return True


class _Whole:
    """An answer with its length: HTTP/1.0 knows no chunks, and uvicorn would send them."""

    def __init__(self) -> None:
        self._start: Message = {}
        self._body: list[bytes] = []

    async def add(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
        else:
            self._body.append(message.get("body", b""))

    def messages(self) -> list[Message]:
        body = b"".join(self._body)
        headers = list(self._start.get("headers", []))
        if b"content-length" not in {name.lower() for name, _ in headers}:
            headers.append((b"content-length", str(len(body)).encode()))
        return [{**self._start, "headers": headers}, {"type": "http.response.body", "body": body}]


def _is_stream(start: Message) -> bool:
    return Headers(raw=start.get("headers", [])).get("content-type", "").startswith("text/event-stream")
