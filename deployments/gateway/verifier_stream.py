"""The gateway's end of the stream to one verifier, which carries all of its requests there.

Promises: what is to be said at one moment goes out as one message, at least one a beat. When the stream breaks, ends or falls
silent, each of its calls learns why, once; a call is told nothing after its end.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any

import grpc

from deployments.gateway.request_progress import Broken, Unreachable, refused
from drafthouse.wire.dialect import OURS, Dialect, IncompatibleError, said_in
from drafthouse.wire.fields import shown
from drafthouse.wire.generation_messages import (
    GenerateReply,
    GenerateRequest,
    GiveBack,
    from_refusal_proto,
    from_reply_proto,
    to_request_proto,
)
from drafthouse.wire.settings import VERIFIER_METADATA
from drafthouse.wire.silence import BEAT_S, Silence, while_heard
from protos import dataplane_pb2 as pb
from protos import dataplane_pb2_grpc as rpc

logger = logging.getLogger(__name__)

OPEN_S = 2.0
"""A verifier that has not taken the stream by then is as good as gone."""

STARTED_TOKENS = 1 << 22
"""No message starts requests with more tokens than this, but for one alone: the wire has a limit of bytes."""

REPLIES_A_TURN = 64
"""After this many the event loop does its other work: a step of 1,000 requests would hold up a new one by tens of milliseconds."""

Key = tuple[str, int]
"""Request and attempt."""


@dataclass(slots=True)
class Pace:
    """When a call's tokens came (seconds, monotonic): the first ones, and `tokens` after them until `last_at`."""

    first_at: float | None = None
    last_at: float = 0.0
    tokens: int = 0

    def came(self, tokens: int, now: float) -> None:
        if self.first_at is None:
            self.first_at = now
        else:
            self.tokens += tokens
        self.last_at = now


UNREAD_TRACES = 32
"""Whole traces of one call that wait for a slow client: of further steps the accepted nodes alone."""


class Call:
    """One attempt at one request: what has come for it and was not read yet, then why nothing more comes."""

    def __init__(self, key: Key) -> None:
        self.key, self.pace = key, Pace()
        self._replies: list[GenerateReply] = []
        self._error: Exception | None = None
        self._reader: asyncio.Future[None] | None = None

    async def read(self) -> list[GenerateReply]:
        """All that has come since the last time, as soon as there is something. Raises what ended the call."""
        while not self._replies:
            if self._error is not None:
                raise self._error
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        replies, self._replies = self._replies, []
        return replies

    @property
    def unread(self) -> bool:
        """Whether the client is behind what has come."""
        return bool(self._replies)

    def put(self, reply: GenerateReply, now: float) -> None:
        if reply.trace is not None and len(self._replies) >= UNREAD_TRACES:
            reply = replace(reply, trace=reply.trace.slim())
        self._replies.append(reply)
        if reply.tokens:
            self.pace.came(len(reply.tokens), now)
        self._wake()

    def end(self, error: Exception) -> None:
        """Raised once all that came before has been read."""
        self._error = self._error or error
        self._wake()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


class VerifierStream:
    def __init__(self, channel: grpc.aio.Channel, heard: Callable[["VerifierStream"], None]):
        """The channel is connected. `heard` is called after each message. `peer` is what the verifier understands, once the stream
        is open."""
        self._channel, self._heard = channel, heard
        self.peer = Dialect()
        self.calls: dict[Key, Call] = {}
        self.draining = self.stalled = False
        self._starts: deque[GenerateRequest] = deque()
        self._cancels: list[Key] = []
        self._wish = GiveBack(0, False)
        self._ready = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Raises ConnectionError when the verifier does not take the stream; IncompatibleError, where the two could not talk."""
        call = rpc.VerifierStub(self._channel).Connect  # type: ignore[no-untyped-call]  # generated
        stream = call(self._outgoing(), metadata=OURS.metadata())
        try:
            async with asyncio.timeout(OPEN_S):
                said = await stream.initial_metadata() or ()
                if VERIFIER_METADATA not in said:
                    code, details = await stream.code(), await stream.details()
                    logger.warning("a verifier does not take the stream: %s: %s", code.name, details)
                    if code is grpc.StatusCode.FAILED_PRECONDITION:
                        raise IncompatibleError(shown(details))
                    raise ConnectionError(f"it does not take the stream ({code.name})")
                self.peer = said_in(said)
                OURS.check(self.peer, "verifier")
        except (grpc.RpcError, TimeoutError) as error:
            code = error.code().name if isinstance(error, grpc.aio.AioRpcError) else type(error).__name__
            raise ConnectionError(f"it does not take the stream ({code})") from error
        self._task = asyncio.create_task(self._run(stream))

    @property
    def alive(self) -> bool:
        return self._task is not None and not self._task.done()

    async def idle(self, limit_s: float) -> None:
        """Returns when it has no calls, after `limit_s` at the latest."""
        deadline = time.monotonic() + limit_s
        while self.calls and time.monotonic() < deadline:
            await asyncio.sleep(BEAT_S)

    async def close(self) -> None:
        """Ends what is still there of it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._channel.close()

    def start(self, request: GenerateRequest) -> Call:
        """Raises Unreachable where the stream is no more."""
        if not self.alive:
            raise Unreachable("its stream has ended")
        key = (request.request_id, request.attempt)
        call = self.calls[key] = Call(key)
        self._starts.append(request)
        self._ready.set()
        return call

    def leave(self, call: Call) -> None:
        """Nothing more is wanted of this call; the verifier is told, unless the call has ended."""
        if self.calls.pop(call.key, None) is not None:
            self._cancels.append(call.key)
            self._ready.set()

    def ask_back(self, wish: GiveBack) -> None:
        """There is room elsewhere for as many of this gateway's waiting requests as `wish` says. Those that go are told so."""
        self._wish = wish
        self._ready.set()

    async def _run(self, stream: Any) -> None:
        silence, why, detail = Silence(), "the verifier ended the stream", ""
        try:
            await while_heard(silence, self._listen(stream, silence))
        except grpc.aio.AioRpcError as error:
            why, detail = f"its stream broke ({error.code().name})", error.details() or ""
        except ConnectionError as error:
            why = str(error)
        except asyncio.CancelledError:
            # The stream was cancelled, or this task: with a channel whose certificate is long replaced, or at the gateway's end.
            why = "its channel was closed"
        finally:
            stream.cancel()
            calls, self.calls = self.calls, {}
            for call in calls.values():
                call.end(Broken(why, detail))

    async def _listen(self, stream: Any, silence: Silence) -> None:
        async for batch in stream:
            silence.heard()
            await self._take(batch)

    async def _take(self, batch: pb.ToGateway) -> None:
        calls, now = self.calls, time.monotonic()
        for count, message in enumerate(batch.replies, start=1):
            if (call := calls.get((message.request_id, message.attempt))) is not None:
                call.put(from_reply_proto(message), now)
                if message.finish_reason:
                    del calls[call.key]
                    call.end(Broken("nothing follows the last reply"))
            if not count % REPLIES_A_TURN:
                await asyncio.sleep(0)
        for refusal in map(from_refusal_proto, batch.refusals):
            if (call := calls.pop((refusal.request_id, refusal.attempt), None)) is not None:
                call.end(refused(refusal))
        self.draining = self.draining or batch.draining
        self.stalled = batch.stalled
        self._heard(self)

    async def _outgoing(self) -> AsyncIterator[pb.FromGateway]:
        while True:
            if not self._starts:
                with contextlib.suppress(TimeoutError):  # nothing to say: that this gateway lives
                    async with asyncio.timeout(BEAT_S):
                        await self._ready.wait()
            self._ready.clear()
            starts = self._next_starts()
            cancels, self._cancels = ([], self._cancels) if self._starts else (self._cancels, [])  # after their own starts
            wish, self._wish = self._wish, GiveBack(0, False)
            yield pb.FromGateway(
                starts=[to_request_proto(request) for request in starts],
                cancels=[pb.Cancel(request_id=request, attempt=attempt) for request, attempt in cancels],
                give_back=pb.GiveBack(count=wish.count, begun=wish.begun) if wish.count else None,
            )

    def _next_starts(self) -> list[GenerateRequest]:
        """As many as fit into one message; those that were cancelled meanwhile are not begun."""
        starts: list[GenerateRequest] = []
        tokens = 0
        while self._starts:
            request = self._starts[0]
            tokens += request.wire_tokens
            if starts and tokens > STARTED_TOKENS:
                break
            starts.append(self._starts.popleft())
        return starts
