"""One request, one stream of output tokens, whatever becomes of the verifiers that make them.

Promises: every output token is yielded once and in order, and the last reply has a finish reason.
When a verifier's stream breaks or falls silent, or the verifier drains, the same request goes to another one of the same fingerprint
with the same seed, a higher attempt and all tokens yielded so far (docs/design.md 8). So does a request that its verifier gives up with
an error, and one that is better off elsewhere (`request_moves.py`). The numbers of such errors and of attempts without a new token are
bounded, and so is the wait for a verifier. Replies of another attempt are ignored. Closing the generator, or cancelling the task that
reads it, cancels the attempt and so frees the KV.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncGenerator, Iterator

from deployments.gateway.request_moves import Attempt, RequestMoves
from deployments.gateway.request_progress import DRAINS, HANGS, Broken, Moved, Refused, RequestProgress, Stalled, Unable, Unreachable
from deployments.gateway.verifier_stream import Call, VerifierStream
from deployments.gateway.verifier_streams import VerifierStreams
from drafthouse.errors import DrafthouseError, OverloadError, RequestError
from drafthouse.policy.stall import STALL_S
from drafthouse.policy.verifier_routes import VerifierRoutes
from drafthouse.telemetry.log_lines import log_event
from drafthouse.wire.dialect import IncompatibleError, needed_by
from drafthouse.wire.generation_messages import GenerateReply, GenerateRequest
from drafthouse.wire.membership import Route
from drafthouse.wire.totals import MOVE_REASONS
from drafthouse.wire.transport import PLAINTEXT, Transport

logger = logging.getLogger(__name__)

MAX_FRUITLESS_ATTEMPTS = 4
"""Attempts in a row that broke without a token: beyond that, it is the request that breaks verifiers."""

MAX_ERRORS = 3
"""Verifiers that a request is given up by. Each may have computed the KV of all its other requests again, to find out that it was
this one."""

MAX_REFUSALS = 4
"""Verifiers that a new request asks for a place, the emptiest first. To ask all of a large pool would cost more than it finds."""

RETRY_S = 0.2
"""Between rounds in which every verifier refused or failed."""

HEARTBEAT_S = 0.5
"""Between two tables, where none says otherwise."""


class NoVerifierError(DrafthouseError):
    """No verifier could be reached in time."""


class StoppingError(NoVerifierError):
    """The server ends while the request runs."""

    def __init__(self) -> None:
        super().__init__("the server stops, so this text ends here; with the same seed another server goes on with the same text")


class GenerationError(DrafthouseError):
    """Verifiers took this request and gave it up."""


class VerifierLink:
    """A gateway's way to all verifiers. Feed it each directive's routes."""

    def __init__(self, patience_s: float, transport: Transport = PLAINTEXT) -> None:
        """A request whose verifier is gone, or that has none yet, waits `patience_s` for one."""
        self.routes = VerifierRoutes(random.random)
        self.failovers, self.moves = 0, dict.fromkeys(MOVE_REASONS, 0)
        self.incompatible: dict[str, str] = {}  # verifiers that could not talk to this gateway when last dialled, and why
        self.patience_s = patience_s
        self._streams = VerifierStreams(transport, self._heard)
        self._running: dict[Call, Attempt] = {}
        self._moves = RequestMoves(self.routes, random.random)
        self._changed = asyncio.Event()
        self._stopping = False

    def update(self, routes: tuple[Route, ...], interval_s: float = HEARTBEAT_S) -> None:
        """The verifiers that may take requests from now on; the next table comes after `interval_s`. Streams of others go on while they are
        heard from; requests that are better off at another verifier go there."""
        self.routes.replace(routes)
        names = {route.replica for route in routes}
        self.incompatible = {replica: why for replica, why in self.incompatible.items() if replica in names}
        self._moves.tabled(self._running, interval_s, time.monotonic())
        self._changed.set()
        self._streams.keep(self.routes.addresses())

    @property
    def running(self) -> int:
        """Attempts in progress."""
        return len(self._running)

    def end_all(self) -> None:
        """Ends all requests with StoppingError, and every one that comes from now on."""
        self._stopping = True
        self._changed.set()
        for call in self._running:
            call.end(Broken("the server stops"))

    async def close(self) -> None:
        """Ends all streams."""
        await self._streams.close()

    async def generate(self, request: GenerateRequest, asked: list[str] | None = None) -> AsyncGenerator[tuple[GenerateReply, ...], None]:
        """What has come since the last time, never nothing. `asked` gets the name of each verifier that is. Raises RequestError,
        OverloadError, NoVerifierError or GenerationError."""
        progress = RequestProgress(request, time.monotonic(), list(request.delivered))
        try:
            while True:
                route = await self._route(progress)
                if asked is not None:
                    asked.append(route.replica)
                try:
                    stream = await self._connected(route, progress)
                    began, served = time.monotonic(), False
                    with self._attempt(stream, progress, route) as call:
                        while progress.broken is None:
                            if replies := progress.take(await call.read(), route.fingerprint, time.monotonic()):
                                if not served:
                                    served = True
                                    self.routes.served(route.replica, request.request_id, began, time.monotonic())
                                yield replies
                                if replies[-1].finish_reason:
                                    return
                        raise progress.broken
                except Broken as error:
                    if self._stopping:
                        raise StoppingError from error
                    self._failed(progress, route, error)
                if (end := progress.end()) is not None:
                    yield (end,)
                    return
                progress.next_attempt()
        finally:
            self.routes.forget(request.request_id)

    async def _route(self, progress: RequestProgress) -> Route:
        """The next verifier to try, as soon as there is one."""
        if progress.deadline is None:
            progress.deadline = time.monotonic() + self.patience_s
        blocks = progress.blocks()
        while True:
            if self._stopping:
                raise StoppingError
            if progress.fruitless >= MAX_FRUITLESS_ATTEMPTS:
                raise NoVerifierError(f"{progress.fruitless} attempts in a row broke off; the last: {progress.last_failure}")
            if progress.errored and self._none_is_left(progress):
                raise GenerationError(f"this request was given up by {len(progress.errored)} verifier(s); the log of this gateway says why")
            avoid = progress.avoid | progress.errored | progress.unable
            route = self.routes.pick(progress.fingerprint, avoid, time.monotonic(), blocks)
            if progress.refusals and not progress.resumed and (route is None or len(progress.refusals) >= MAX_REFUSALS):
                raise self._none_found(progress)
            if route is not None:
                return route
            if time.monotonic() > progress.deadline or self._all_are_unable(progress):
                raise self._none_found(progress)
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY_S):  # not wait_for, which may swallow a cancellation that comes with the change
                    await self._changed.wait()
            progress.avoid.clear()

    def _none_is_left(self, progress: RequestProgress) -> bool:
        """Whether no further verifier is to try a request that some have given up."""
        return len(progress.errored) >= MAX_ERRORS or self.routes.pick(progress.fingerprint, progress.errored, time.monotonic()) is None

    def _all_are_unable(self, progress: RequestProgress) -> bool:
        """Whether no verifier knows what a request asks for that has no tokens yet. One with tokens waits for a newer verifier to come."""
        return not progress.delivered and bool(progress.unable) and self.routes.pick(None, progress.unable, time.monotonic()) is None

    def _none_found(self, progress: RequestProgress) -> DrafthouseError:
        """The error for a request that found no verifier: all refused it, or none was there in time."""
        if progress.refusals and not progress.resumed:
            # The request waits at all that refused it, and one free place at any of them is enough: their rates add up.
            retry_after_s = 1.0 / sum(1.0 / seconds for seconds in progress.refusals.values())
            return OverloadError(f"all verifiers are full; the last: {progress.last_failure}", retry_after_s)
        known = f"{len(self.routes)} are known"
        if progress.fingerprint is not None:
            known += f", {self.routes.fitting(progress.fingerprint)} of them with the fingerprint that this text was begun with"
        return NoVerifierError(f"no verifier for {self.patience_s:g} s ({known}); the last failure: {progress.last_failure}")

    async def _connected(self, route: Route, progress: RequestProgress) -> VerifierStream:
        """A stream to a verifier that knows all that the request asks for. Raises Unreachable."""
        try:
            stream = await self._streams.connected(route.address)
        except ConnectionError as error:
            if isinstance(error, IncompatibleError):
                self.incompatible[route.replica] = str(error)
            raise Unreachable(str(error)) from error
        self.incompatible.pop(route.replica, None)
        if lacking := needed_by(progress.request) - stream.peer.features:
            raise Unable(f"it is of an older version, without {', '.join(sorted(lacking))}")
        return stream

    @contextlib.contextmanager
    def _attempt(self, stream: VerifierStream, progress: RequestProgress, route: Route) -> Iterator[Call]:
        """One call to one verifier, and what routing has to know of it."""
        call = stream.start(progress.next_request(time.monotonic()))
        self._running[call] = Attempt(stream, route, progress, time.monotonic())
        blocks, taken = progress.blocks(), True
        known = self.routes.started(route, time.monotonic(), blocks)
        try:
            yield call
        except (Refused, RequestError):
            taken = False
            raise
        except Moved as moved:
            taken = moved.why != "room" or bool(progress.delivered)
            raise
        finally:
            stream.leave(call)
            del self._running[call]
            if taken:
                self.routes.ended(route, progress.blocks())
            else:
                self.routes.refused(route, blocks[known:])

    def _heard(self, stream: VerifierStream) -> None:
        """Lets the calls of a verifier that drains, or whose device hangs, go where another may take over; until there is one, they
        stay."""
        if not (stream.draining or stream.stalled):
            return
        now = time.monotonic()
        common = stream.stalled and self._most_stall()
        for call in list(stream.calls.values()):
            attempt = self._running[call]
            replica = attempt.route.replica
            self.routes.gone(replica, now, DRAINS if stream.draining else HANGS)
            unfit = {replica} | attempt.progress.errored | attempt.progress.unable
            if not (common and stream.stalled) and self.routes.another(attempt.progress.fingerprint, unfit, now):
                stream.leave(call)
                call.end(Moved("drain") if stream.draining else Stalled(HANGS, now - attempt.began >= STALL_S))

    def _most_stall(self) -> bool:
        """Whether more than half of the verifiers hang: what they share does, and the last one should not get the requests of all."""
        return 2 * self._streams.stalled > len(self.routes)

    def _failed(self, progress: RequestProgress, route: Route, error: Broken) -> None:
        progress.failed(route.replica, error)
        request, now = progress.request, time.monotonic()
        details = {"id": request.request_id, "attempt": request.attempt, "verifier": route.replica}
        message = f"request {request.request_id}, attempt {request.attempt} on {progress.last_failure}"
        match error:
            case Refused():
                self.routes.full(route.replica, now)
            case Unable():
                pass  # nothing is wrong with it
            case Moved(why=why):
                self.moves[why] += 1
                if why == "drain":
                    self.routes.gone(route.replica, now, DRAINS)
                log_event(logger, logging.INFO, "move", message, reason=why, **details)
            case Unreachable():
                self.routes.gone(route.replica, now, str(error))
            case _:
                self.failovers += 1
                if isinstance(error, Stalled):
                    self.routes.gone(route.replica, now, str(error))
                else:
                    self.routes.failed(route.replica, request.request_id, now, str(error))
                detail = f": {error.detail}" if error.detail else ""
                log_event(logger, logging.WARNING, "failover", message + detail, **details)
