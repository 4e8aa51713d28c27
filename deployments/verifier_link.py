"""One request, one stream of output tokens, whatever becomes of the verifiers that make them.

Promises: every output token is yielded once and in order, and the last reply has a finish reason.
When a stream breaks, the same request goes to another verifier of the same fingerprint with the same
seed, a higher attempt and all tokens yielded so far (DESIGN 8); the number of attempts without a new
token and the wait for a verifier are bounded. Replies of another attempt are ignored. Closing the
generator, or cancelling the task that reads it, cancels the gRPC call and so frees the KV.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace
from typing import Any

import grpc

from deployments.channels import Channels
from deployments.verifier_routes import VerifierRoutes
from drafthouse.errors import DrafthouseError, OverloadError, RequestError, WireError
from drafthouse.generation_messages import GenerateReply, GenerateRequest, from_reply_proto, to_request_proto
from drafthouse.membership import Route
from drafthouse.transport import PLAINTEXT, Transport
from protos import dataplane_pb2_grpc

logger = logging.getLogger(__name__)

MAX_FRUITLESS_ATTEMPTS = 4
"""Streams in a row that broke without a token: beyond that, it is the request that breaks verifiers."""

PATIENCE_S = 30.0
"""How long a request waits for a verifier: enough for Serve to restart a replica of a small model."""

RETRY_S = 0.2
"""Between rounds in which every verifier refused or failed."""

SILENCE_S = 5.0
"""A verifier that the controller has taken out and that says nothing for so long is dead or cut off."""

BAD_REQUEST = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE, grpc.StatusCode.FAILED_PRECONDITION)


class NoVerifierError(DrafthouseError):
    """No verifier could be reached in time."""


class _Broken(Exception):
    """This stream is of no more use; another verifier may go on."""


class _Refused(_Broken):
    """The verifier has no room."""


class _Unreachable(_Broken):
    """The verifier cannot have seen this attempt."""


@dataclass(slots=True, eq=False)
class _Progress:
    """What a request has so far. `emitted` grows only by what has been yielded to the caller."""

    request: GenerateRequest
    deadline: float
    emitted: list[int] = field(default_factory=list)
    fingerprint: str | None = None  # None until the first token: until then any target's text would do
    avoid: set[str] = field(default_factory=set)  # replicas that failed or refused since the last new token
    fruitless: int = 0
    refused: bool = False
    last_failure: str = "none was tried"

    def next_request(self) -> GenerateRequest:
        return replace(self.request, emitted=tuple(self.emitted))

    def finished_reason(self) -> str:
        """Not empty if the stream broke after the last token, but before the verifier could say so."""
        if self.emitted and self.emitted[-1] in self.request.stop_tokens:
            return "stop"
        return "length" if len(self.emitted) >= self.request.max_tokens else ""


@dataclass(slots=True, eq=False)
class _Call:
    """One open stream; `heard` is the time of its last reply."""

    route: Route
    stream: Any
    heard: float
    given_up: bool = False


class VerifierLink:
    """A gateway's way to all verifiers. Feed it each directive's routes."""

    def __init__(self, patience_s: float = PATIENCE_S, transport: Transport = PLAINTEXT) -> None:
        self.routes = VerifierRoutes()
        self.failovers = 0
        self._patience_s = patience_s
        self._channels = Channels(transport)
        self._calls: set[_Call] = set()
        self._changed = asyncio.Event()

    def update(self, routes: tuple[Route, ...]) -> None:
        """The verifiers that may take requests from now on. Streams of others go on while they are heard from."""
        self.routes.replace(routes)
        self._changed.set()
        self._channels.keep(self.routes.addresses() | {call.route.address for call in self._calls})
        now = time.monotonic()
        for call in self._calls:
            if call.route.replica not in self.routes and now - call.heard > SILENCE_S:
                call.given_up = True
                call.stream.cancel()

    async def close(self) -> None:
        """Cancels all streams and closes the channels."""
        for call in self._calls:
            call.stream.cancel()
        await self._channels.close()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[GenerateReply, None]:
        """Raises RequestError, OverloadError or NoVerifierError; a reply with finish_reason `error` is passed on."""
        progress = _Progress(request, time.monotonic() + self._patience_s, list(request.emitted))
        while True:
            route = await self._route(progress)
            replies = self._attempt(progress, route)
            try:
                async for reply in replies:
                    yield reply
                    if reply.finish_reason:
                        return
                raise _Broken("the stream ended without a finish reason")
            except _Broken as error:
                self._failed(progress, route, error)
            finally:
                await replies.aclose()
            reason = progress.finished_reason()
            if reason:
                yield GenerateReply(request.request, progress.request.attempt, len(progress.emitted), (), reason)
                return
            progress.request = replace(progress.request, attempt=progress.request.attempt + 1)

    async def _route(self, progress: _Progress) -> Route:
        """The next verifier to try, as soon as there is one."""
        while True:
            if progress.fruitless >= MAX_FRUITLESS_ATTEMPTS:
                raise NoVerifierError(f"{progress.fruitless} attempts in a row broke off; the last: {progress.last_failure}")
            route = self.routes.pick(progress.fingerprint, progress.avoid)
            if route is not None:
                return route
            if progress.refused and not progress.emitted:
                raise OverloadError("all verifiers are full; try again later")
            if time.monotonic() > progress.deadline:
                raise self._gone(progress)
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), RETRY_S)
            progress.avoid.clear()

    def _gone(self, progress: _Progress) -> DrafthouseError:
        if progress.refused:
            return OverloadError("all verifiers are full; try again later")
        return NoVerifierError(f"no verifier to be had ({len(self.routes)} are known); the last failure: {progress.last_failure}")

    async def _attempt(self, progress: _Progress, route: Route) -> AsyncGenerator[GenerateReply, None]:
        """One stream from one verifier. Raises _Broken when another should go on, RequestError when none should."""
        try:
            channel = await self._channels.connected(route.address)
        except ConnectionError as error:
            raise _Unreachable(str(error)) from error
        stub = dataplane_pb2_grpc.VerifierStub(channel)  # type: ignore[no-untyped-call]  # generated
        stream = stub.Generate(to_request_proto(progress.next_request()))
        call = _Call(route, stream, time.monotonic())
        self._calls.add(call)
        self.routes.started(route)
        try:
            async for message in stream:
                call.heard = time.monotonic()
                reply = _fresh(from_reply_proto(message), progress)
                if reply is not None:
                    self._advance(progress, route, reply)
                    yield reply
        except grpc.aio.AioRpcError as error:
            raise _translated(error) from error
        except WireError as error:
            raise _Broken(str(error)) from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not call.given_up or (task is not None and task.cancelling()):
                raise
            raise _Broken(f"{route.replica} was taken out and fell silent") from None
        finally:
            stream.cancel()
            self._calls.discard(call)
            self.routes.ended(route)

    def _advance(self, progress: _Progress, route: Route, reply: GenerateReply) -> None:
        if reply.tokens:
            progress.emitted.extend(reply.tokens)
            progress.fingerprint = route.fingerprint
            progress.fruitless, progress.refused = 0, False
            progress.avoid.clear()
            progress.deadline = time.monotonic() + self._patience_s

    def _failed(self, progress: _Progress, route: Route, error: _Broken) -> None:
        progress.avoid.add(route.replica)
        progress.last_failure = f"{route.replica}: {error}"
        if isinstance(error, _Refused):
            progress.refused = True
        elif not isinstance(error, _Unreachable):
            progress.fruitless += 1
            self.failovers += 1
            logger.warning("request %s, attempt %d on %s", progress.request.request, progress.request.attempt, progress.last_failure)


def _fresh(reply: GenerateReply, progress: _Progress) -> GenerateReply | None:
    """What of this reply is new. Raises WireError when tokens before it are missing."""
    request, done = progress.request, len(progress.emitted)
    if (reply.request, reply.attempt) != (request.request, request.attempt):
        return None
    if reply.first_index > done and reply.tokens:
        raise WireError(f"reply begins at output token {reply.first_index}, but only {done} have come")
    tokens = reply.tokens[done - reply.first_index :] if reply.tokens else ()
    if not tokens and not reply.finish_reason:
        return None
    return replace(reply, first_index=done, tokens=tokens)


def _translated(error: grpc.aio.AioRpcError) -> Exception:
    details = error.details() or error.code().name
    if error.code() in BAD_REQUEST:
        return RequestError(details)
    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return _Refused(details)
    if error.code() is grpc.StatusCode.UNAUTHENTICATED:
        return _Unreachable(details)
    return _Broken(f"{error.code().name}: {details}")
