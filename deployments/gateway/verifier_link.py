"""One request, one stream of output tokens, whatever becomes of the verifiers that make them.

Promises: every output token is yielded once and in order, and the last reply has a finish reason.
When a stream breaks, falls silent, or its verifier drains, the same request goes to another verifier of the same fingerprint
with the same seed, a higher attempt and all tokens yielded so far (docs/design.md 8); the number of attempts without a new
token and the wait for a verifier are bounded. Replies of another attempt are ignored. Closing the
generator, or cancelling the task that reads it, cancels the gRPC call and so frees the KV.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc

from deployments.gateway.channels import Channels
from deployments.gateway.request_progress import Broken, Moved, Refused, RequestProgress, Unreachable, translated
from drafthouse.errors import DrafthouseError, OverloadError, RequestError, WireError
from drafthouse.policy.verifier_routes import VerifierRoutes
from drafthouse.telemetry.log_lines import log_event
from drafthouse.wire.generation_messages import GenerateReply, GenerateRequest, from_reply_proto, to_request_proto
from drafthouse.wire.membership import Route
from drafthouse.wire.silence import BEAT_S, Silence
from drafthouse.wire.transport import PLAINTEXT, Transport
from protos import dataplane_pb2_grpc

logger = logging.getLogger(__name__)

MAX_FRUITLESS_ATTEMPTS = 4
"""Streams in a row that broke without a token: beyond that, it is the request that breaks verifiers."""

MAX_REFUSALS = 4
"""Verifiers that a new request asks for a place, the emptiest first. To ask all of a large pool would cost more than it finds."""

RETRY_S = 0.2
"""Between rounds in which every verifier refused or failed."""


class NoVerifierError(DrafthouseError):
    """No verifier could be reached in time."""


@dataclass(slots=True, eq=False)
class _Call:
    """One open stream. `listening`: its reader waits for the next reply, so that silence is the verifier's own."""

    route: Route
    stream: Any
    replies: AsyncIterator[Any]
    silence: Silence = field(default_factory=Silence)
    listening: bool = False
    given_up: bool = False
    draining: bool = False

    async def read(self) -> Any:
        """The next message, or None at the end."""
        self.listening = True
        try:
            return await anext(self.replies, None)
        finally:
            self.listening = False
            self.silence.heard()


class VerifierLink:
    """A gateway's way to all verifiers. Feed it each directive's routes."""

    def __init__(self, patience_s: float, transport: Transport = PLAINTEXT) -> None:
        """A request whose verifier is gone, or that has none yet, waits `patience_s` for one."""
        self.routes = VerifierRoutes(random.random)
        self.failovers, self.moves = 0, 0
        self._patience_s = patience_s
        self._channels = Channels(transport)
        self._calls: set[_Call] = set()
        self._changed = asyncio.Event()
        self._watcher: asyncio.Task[None] | None = None

    def update(self, routes: tuple[Route, ...]) -> None:
        """The verifiers that may take requests from now on. Streams of others go on while they are heard from."""
        self.routes.replace(routes)
        self._changed.set()
        self._channels.keep(self.routes.addresses() | {call.route.address for call in self._calls})

    async def close(self) -> None:
        """Cancels all streams and closes the channels."""
        for call in self._calls:
            call.stream.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        await self._channels.close()

    async def generate(self, request: GenerateRequest, asked: list[str] | None = None) -> AsyncGenerator[GenerateReply, None]:
        """`asked` gets the name of each verifier that is. Raises RequestError, OverloadError or
        NoVerifierError; a reply with finish_reason `error` is passed on."""
        progress = RequestProgress(request, list(request.delivered))
        while True:
            route = await self._route(progress)
            if asked is not None:
                asked.append(route.replica)
            replies = self._attempt(progress, route)
            try:
                async for reply in replies:
                    yield reply
                    if reply.finish_reason:
                        return
                raise Broken("the stream ended without a finish reason")
            except Broken as error:
                self._failed(progress, route, error)
            finally:
                await replies.aclose()
            if (end := progress.end()) is not None:
                yield end
                return
            progress.next_attempt()

    async def _route(self, progress: RequestProgress) -> Route:
        """The next verifier to try, as soon as there is one."""
        if progress.deadline is None:
            progress.deadline = time.monotonic() + self._patience_s
        blocks = progress.blocks()
        while True:
            if progress.fruitless >= MAX_FRUITLESS_ATTEMPTS:
                raise NoVerifierError(f"{progress.fruitless} attempts in a row broke off; the last: {progress.last_failure}")
            route = self.routes.pick(progress.fingerprint, progress.avoid, time.monotonic(), blocks)
            if progress.refusals and not progress.resumed and (route is None or len(progress.refusals) >= MAX_REFUSALS):
                raise self._none_found(progress)
            if route is not None:
                return route
            if time.monotonic() > progress.deadline:
                raise self._none_found(progress)
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), RETRY_S)
            progress.avoid.clear()

    def _none_found(self, progress: RequestProgress) -> DrafthouseError:
        """The error for a request that found no verifier: all refused it, or none was there in time."""
        if progress.refusals and not progress.resumed:
            # The request waits at all that refused it, and one free place at any of them is enough: their rates add up.
            retry_after_s = 1.0 / sum(1.0 / seconds for seconds in progress.refusals.values())
            return OverloadError(f"all verifiers are full; the last: {progress.last_failure}", retry_after_s)
        known = f"{len(self.routes)} are known"
        if progress.fingerprint is not None:
            known += f", {self.routes.fitting(progress.fingerprint)} of them with the fingerprint that this text was begun with"
        return NoVerifierError(f"no verifier for {self._patience_s:g} s ({known}); the last failure: {progress.last_failure}")

    async def _attempt(self, progress: RequestProgress, route: Route) -> AsyncGenerator[GenerateReply, None]:
        """One stream from one verifier. Raises Broken when another should go on, RequestError when none should."""
        try:
            channel = await self._channels.connected(route.address)
        except ConnectionError as error:
            raise Unreachable(str(error)) from error
        stub = dataplane_pb2_grpc.VerifierStub(channel)  # type: ignore[no-untyped-call]  # generated
        stream = stub.Generate(to_request_proto(progress.next_request()))
        call = _Call(route, stream, aiter(stream))
        self._calls.add(call)
        self._watch()
        blocks, taken = progress.blocks(), True
        known = self.routes.started(route, blocks)
        try:
            while (message := await call.read()) is not None:
                reply = progress.take(from_reply_proto(message), route.fingerprint)
                if reply is not None:
                    yield reply
                self._leave(call, progress, message.draining)
        except grpc.aio.AioRpcError as error:
            failure = translated(error)
            taken = not isinstance(failure, Refused | RequestError)
            raise failure from error
        except WireError as error:
            raise Broken(str(error)) from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # The call was cancelled, not this task: for its silence, or with a channel whose certificate is long replaced.
            raise Broken("it fell silent" if call.given_up else "its channel was closed") from None
        finally:
            stream.cancel()
            self._calls.discard(call)
            if taken:
                self.routes.ended(route, progress.blocks())
            else:
                self.routes.refused(route, blocks[known:])

    def _leave(self, call: _Call, progress: RequestProgress, draining: bool) -> None:
        """Raises Moved when this verifier drains and another may take over; until there is one, it goes on here."""
        now = time.monotonic()
        if draining and not call.draining:
            call.draining = True
            self.routes.shun(call.route.replica, now)
        if call.draining and self.routes.another(progress.fingerprint, call.route.replica, now):
            raise Moved("it drains")

    def _watch(self) -> None:
        if self._watcher is None or self._watcher.done():
            self._watcher = asyncio.create_task(self._give_up_silent())

    async def _give_up_silent(self) -> None:
        """While there are calls: ends those whose verifier sends neither tokens nor signs of life."""
        while self._calls:
            await asyncio.sleep(BEAT_S)
            for call in self._calls:
                if call.listening and call.silence.beat():
                    call.given_up = True
                    call.stream.cancel()

    def _failed(self, progress: RequestProgress, route: Route, error: Broken) -> None:
        progress.failed(route.replica, error)
        if not isinstance(error, Refused):
            self.routes.shun(route.replica, time.monotonic())
        if isinstance(error, Moved):
            self.moves += 1
        elif not isinstance(error, Refused | Unreachable):
            self.failovers += 1
            request = progress.request
            message = f"request {request.request_id}, attempt {request.attempt} on {progress.last_failure}"
            log_event(logger, logging.WARNING, "failover", message, id=request.request_id, attempt=request.attempt, verifier=route.replica)
