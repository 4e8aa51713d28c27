"""One answer to one client, whole or as a stream of server-sent events, in the form of whichever API it came by.

Promises: an error before the first token has its own status; after it, the error is an event. The first token leaves as soon as it is
there. A client that goes away cancels its generation.
"""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, Protocol

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from deployments.api.openai.errors import CLIENT_GONE
from deployments.gateway.arrival import Deltas
from deployments.gateway.request_planner import RequestPlan
from deployments.gateway.text_stream import TextDelta


class AnswerForm(Protocol):
    """What one API says of one answer. `index` is the choice that a delta is of. Events are server-sent ones, as text, possibly none."""

    def opening(self) -> str:
        """Events before the first delta."""

    def events(self, index: int, delta: TextDelta) -> str:
        """Events of the next delta."""

    def closing(self) -> str:
        """Events after the last delta."""

    def failure(self, error: Exception) -> str:
        """The last events of a stream that `error` ends."""

    def add(self, index: int, delta: TextDelta) -> None:
        """Takes the next delta of an answer that is sent whole."""

    def whole(self) -> dict[str, Any]:
        """The body, once all deltas are there."""


async def answer(request: Request, plan: RequestPlan, deltas: Deltas, form: AnswerForm, stream: bool, keep_alive_s: float) -> Response:
    """Raises what ends the answer before its first token."""
    headers = {"x-drafthouse-seed": str(plan.seed)} | ({"x-drafthouse-note": "; ".join(plan.notes)} if plan.notes else {})
    if not stream:
        whole = await _unless_gone(request, _whole(form, deltas))
        return JSONResponse(whole, headers=headers) if whole is not None else Response(status_code=CLIENT_GONE)
    first = await _begun(deltas, keep_alive_s)
    if first.done() and first.result()[1].usage.synthetic:  # usage is an event only for those who ask for it
        headers["x-drafthouse-synthetic"] = "1"
    return _EventStream(_events(form, first, deltas), {**headers, "Cache-Control": "no-cache"}, first, deltas)


class _EventStream(StreamingResponse):
    """Ends its events and `deltas`, however it ends, also where the events have not begun: no place is left to the garbage collector."""

    def __init__(self, events: AsyncGenerator[str, None], headers: dict[str, str], first: "asyncio.Task[Any]", deltas: Deltas) -> None:
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._events, self._first, self._deltas = events, first, deltas

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._first.cancel()
            await asyncio.gather(self._first, return_exceptions=True)
            await self._events.aclose()
            await self._deltas.aclose()


async def _unless_gone(request: Request, work: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any] | None:
    """None when the client went away first; `work` was cancelled then, and has ended. Serve says so to the application alone."""
    task, gone = asyncio.create_task(work), asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return await task if task.done() else None
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _begun(deltas: Deltas, patience_s: float) -> "asyncio.Task[tuple[int, TextDelta]]":
    """The first delta, or who waits for it: after `patience_s` the stream begins with comments (`Sending`). Raises its error if it
    comes by then."""
    first = asyncio.create_task(_first(deltas))
    try:
        await asyncio.wait({first}, timeout=patience_s)
        if first.done():
            first.result()
    except asyncio.CancelledError:
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        raise
    return first


async def _first(deltas: Deltas) -> tuple[int, TextDelta]:
    """Waited for before the status is sent, so that a refused request gets its own."""
    try:
        return await anext(deltas)
    except BaseException:
        await deltas.aclose()
        raise


async def _whole(form: AnswerForm, deltas: Deltas) -> dict[str, Any]:
    async with aclosing(deltas):
        async for index, delta in deltas:
            form.add(index, delta)
    return form.whole()


async def _events(form: AnswerForm, first: "asyncio.Task[tuple[int, TextDelta]]", deltas: Deltas) -> AsyncGenerator[str, None]:
    async with aclosing(deltas):
        try:
            if opening := form.opening():
                yield opening
            if events := form.events(*await first):
                yield events
            async for index, delta in deltas:
                if events := form.events(index, delta):
                    yield events
            last = form.closing()
        except Exception as error:  # fault boundary: the status is sent, so the error becomes an event
            last = form.failure(error)
        if last:
            yield last
