"""The drafter's data plane: one bidirectional stream per verifier carries all its sessions.

Promises: what is ready at one moment goes out as one message. A message that cannot be read, or makes the engine
raise, drops its own session; the stream and its other sessions go on. A verifier that falls silent loses its sessions.
When the drafting thread is dead, or its device does not come back from a pass, all streams end; when it comes back, verifiers may
dial again. Draining, it takes nothing new, drops every session with a word to
its verifier, and then ends the streams.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from drafter.engine import DrafterEngine, Outgoing
from drafter.pass_loop import Command, PassLoop
from drafthouse.config.serving import DrafterConfig, TreeConfig
from drafthouse.errors import WireError
from drafthouse.policy.stall import LOOK_S, StallWatch
from drafthouse.telemetry.log_lines import log_event
from drafthouse.wire.dialect import OURS, IncompatibleError, said_in
from drafthouse.wire.fields import shown
from drafthouse.wire.session_messages import ToDrafterMessage, ToVerifierMessage, from_drafter_proto, session_of, to_verifier_proto
from drafthouse.wire.settings import DRAFTER_METADATA
from drafthouse.wire.silence import Silence, while_heard
from drafthouse.wire.transport import PLAINTEXT, Transport
from protos import dataplane_pb2 as pb
from protos import dataplane_pb2_grpc as rpc

logger = logging.getLogger(__name__)

DRAIN_S = 2.0
"""Longer than any draft pass; who has not been told by then sees the stream end."""


UNREADABLE = f"a message cannot be read: it is no protobuf message {pb.ToDrafter.DESCRIPTOR.full_name}"


class _Stream:
    """What is to be said on one stream, and the round-trip probe to echo. `unreadable`: what its verifier sent is no message."""

    def __init__(self) -> None:
        self.messages: list[ToVerifierMessage] = []
        self.echo_us, self.echo_at = 0, 0.0
        self.ready = asyncio.Event()
        self.silence = Silence()
        self.unreadable = False


class DrafterServer(rpc.DrafterServicer):
    def __init__(self, engine: DrafterEngine, name: str, transport: Transport = PLAINTEXT):
        self.name, self._transport = name, transport
        self.loop = PassLoop(engine, self._send_from_thread, self._thread_ended, engine.config.pass_limit_s)
        self._stall = StallWatch()
        self._streams: dict[str, _Stream] = {}
        self._count = 0
        self.malformed = 0
        self.draining = False
        self._ending = False  # streams end once they have said what they have to say

    async def start(self, host: str, port: int) -> int:
        """Starts the thread and the server; returns the port."""
        self._asyncio = asyncio.get_running_loop()
        self.loop.start()
        self._server, bound = self._transport.server(f"{host}:{port}")
        rpc.add_DrafterServicer_to_server(self, self._server)  # type: ignore[no-untyped-call]
        await self._server.start()
        self._watching = asyncio.create_task(self._watch_device())
        return bound

    def reconfigure(self, config: DrafterConfig, tree: TreeConfig) -> None:
        """From any thread."""
        self.loop.limit_s = config.pass_limit_s

        def command(engine: DrafterEngine) -> list[Outgoing]:
            engine.reconfigure(config, tree)
            return []

        self.loop.post(command)

    async def stop(self) -> None:
        self._watching.cancel()
        await self._server.stop(grace=0.2)
        self.loop.stop()

    @property
    def takes_sessions(self) -> bool:
        return not self.loop.trouble and not self.draining

    @property
    def _no_drafts(self) -> str:
        """Why streams are of no use; empty while they are."""
        return self.loop.trouble or ("the device does not come back from a pass" if self._stall.stalled else "")

    async def _watch_device(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            expected_s = self.loop.engine.expected_s
            if self._stall.look(self.loop.current, expected_s):
                if self._stall.stalled:
                    message = f"a pass that should take {expected_s:.3f} s does not come back: verifiers are told to draft elsewhere"
                    log_event(logger, logging.WARNING, "stalled", message, streams=len(self._streams))
                else:
                    log_event(logger, logging.WARNING, "stall over", "the device has come back")
                self._wake_streams()

    async def drain(self) -> None:
        """Returns when all verifiers have been told, or after DRAIN_S. A second call does nothing."""
        if self.draining:
            return
        self.draining = True
        dropped = asyncio.Event()

        def command(engine: DrafterEngine) -> list[Outgoing]:
            self._send_from_thread(engine.drain())
            self._asyncio.call_soon_threadsafe(dropped.set)
            return []

        self.loop.post(command)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                await dropped.wait()
                self._ending = True
                while self._streams:
                    self._wake_streams()
                    await asyncio.sleep(0.01)

    def _wake_streams(self) -> None:
        for stream in self._streams.values():
            stream.ready.set()

    async def Connect(self, request_iterator: AsyncIterator[pb.ToDrafter], context: Any) -> AsyncIterator[pb.ToVerifier]:
        if self._stall.stalled or not self.takes_sessions:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "this drafter takes no new sessions")
            return
        try:
            OURS.check(said_in(context.invocation_metadata()), "verifier")
        except IncompatibleError as error:
            logger.warning("verifier at %s gets no drafts: %s", context.peer(), error)
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        wish = self.loop.engine.wish
        asked = wish.metadata() if wish is not None else ()
        await context.send_initial_metadata(((DRAFTER_METADATA, self.name), *OURS.metadata(), *asked))
        self._count += 1
        peer, stream = f"{context.peer()}#{self._count}", _Stream()
        self._streams[peer] = stream
        reader = asyncio.create_task(self._read(peer, stream, request_iterator))
        try:
            while stream.messages or not (reader.done() or self._ending or self._no_drafts):
                await stream.ready.wait()
                stream.ready.clear()
                if batch := self._batch(stream):
                    yield batch
            if why := self._no_drafts:
                await context.abort(grpc.StatusCode.UNAVAILABLE, why)
            if stream.unreadable:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, UNREADABLE)
        finally:
            reader.cancel()
            self._streams.pop(peer, None)
            self.loop.post(lambda engine: _forget(engine, peer))

    def _batch(self, stream: _Stream) -> pb.ToVerifier | None:
        if not stream.messages and not stream.echo_us:
            return None
        batch = pb.ToVerifier(drafter=self.name, messages=[to_verifier_proto(m) for m in stream.messages])
        stream.messages = []
        if stream.echo_us:
            batch.echo_us = stream.echo_us
            batch.echo_delay_us = int((time.perf_counter() - stream.echo_at) * 1e6)
            stream.echo_us = 0
        return batch

    async def _read(self, peer: str, stream: _Stream, requests: AsyncIterator[pb.ToDrafter]) -> None:
        try:
            await while_heard(stream.silence, self._listen(peer, stream, requests))
        except (grpc.RpcError, ConnectionError) as error:  # the peer is gone; Connect's `finally` forgets its sessions
            logger.info("stream of %s: %s", peer, error)
        except DecodeError:
            stream.unreadable = True
            self.malformed += 1
            logger.warning("stream of %s: %s; it ends, with its sessions", peer, UNREADABLE)
        finally:
            stream.ready.set()

    async def _listen(self, peer: str, stream: _Stream, requests: AsyncIterator[pb.ToDrafter]) -> None:
        async for batch in requests:
            stream.silence.heard()
            if batch.echo_us:
                stream.echo_us, stream.echo_at = batch.echo_us, time.perf_counter()
                stream.ready.set()
            self._take(peer, batch)

    def _take(self, peer: str, batch: pb.ToDrafter) -> None:
        """All of the batch at once, in order: no pass is begun between its messages."""
        said: list[Command] = []
        for proto in batch.messages:
            try:
                said.append(partial(self._handle, peer=peer, message=from_drafter_proto(proto)))
            except WireError as error:
                self.malformed += 1
                logger.warning("malformed message from %s: %s", shown(batch.verifier), error)
                if (named := session_of(proto)) is not None:
                    said.append(partial(DrafterEngine.fail, peer=peer, session=named[0], epoch=named[1], reason=f"malformed: {error}"))
        if said:  # most batches are but probes
            self.loop.post(*said)

    def _handle(self, engine: DrafterEngine, peer: str, message: ToDrafterMessage) -> list[Outgoing]:
        """On the loop's thread. What raises here is a fault of device or engine: the state of this one session may be spoilt by it."""
        try:
            return engine.handle(peer, message)
        except Exception as error:
            self.loop.count_fault(f"{type(message).__name__} of session {message.session_id} failed; the session is dropped")
            return engine.fail(peer, message.session_id, message.epoch, f"the drafter failed: {type(error).__name__}")

    def _send_from_thread(self, out: list[Outgoing]) -> None:
        self._asyncio.call_soon_threadsafe(self._enqueue, out)

    def _thread_ended(self) -> None:
        self._asyncio.call_soon_threadsafe(self._wake_streams)

    def _enqueue(self, out: list[Outgoing]) -> None:
        for peer, message in out:
            if (stream := self._streams.get(peer)) is not None:
                stream.messages.append(message)
                stream.ready.set()


def _forget(engine: DrafterEngine, peer: str) -> list[Outgoing]:
    engine.forget_peer(peer)
    return []
