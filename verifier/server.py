"""The verifier's data plane: one bidirectional stream per gateway carries all its requests, one client per drafter it may use.

Promises: each accepted request ends with exactly one reply that has a finish_reason, or is cancelled; no stream is silent for longer
than a beat while this process runs; what is cancelled, or was asked for on a stream that is gone, frees its KV slots before the next
step; a gateway that falls silent or does not read loses its stream, and no one else anything; with TLS on, nobody is served without.
While its device does not come back from a step, gateways are told so: they go on elsewhere where they can.
Draining, it takes nothing new and is left by every request within the time it is given.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterable, Set
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from drafthouse.errors import DrafthouseError, OverloadError, RequestError, WireError
from drafthouse.grammars.matcher import GrammarMatcher
from drafthouse.policy.stall import LOOK_S, StallWatch
from drafthouse.sampling import Grammar
from drafthouse.telemetry.log_lines import log_event
from drafthouse.wire.dialect import OURS, IncompatibleError, said_in
from drafthouse.wire.generation_messages import GenerateReply, GenerateRequest, GiveBack, Refusal, RefusalKind, from_request_proto
from drafthouse.wire.membership import Route
from drafthouse.wire.session_messages import ToDrafterMessage, ToVerifierMessage
from drafthouse.wire.settings import VERIFIER_METADATA
from drafthouse.wire.silence import BEAT_S, while_heard
from drafthouse.wire.states import StatesWish
from drafthouse.wire.transport import PLAINTEXT, Transport
from protos import dataplane_pb2 as pb
from protos import dataplane_pb2_grpc as rpc
from verifier.drafter_client import DrafterClient
from verifier.engine import VerifierEngine
from verifier.gateway_stream import GatewayStream, Key
from verifier.sequence import Sequence
from verifier.step_loop import StepLoop

logger = logging.getLogger(__name__)

FAREWELL_S = 0.5
"""What is told to go finds the way out in this time; then the server stops anyway."""


UNREADABLE = f"a message cannot be read: it is no protobuf message {pb.FromGateway.DESCRIPTOR.full_name}"


class VerifierServer(rpc.VerifierServicer):
    def __init__(self, engine: VerifierEngine, name: str, transport: Transport = PLAINTEXT):
        self.name, self._transport = name, transport
        self.loop = StepLoop(engine, self._deliver_from_thread)
        self.clients: dict[str, DrafterClient] = {}
        self._streams: set[GatewayStream] = set()
        self._requests: dict[Key, GatewayStream] = {}  # those that have not had their last reply
        self._left = asyncio.Event()  # by a request
        self._compiling: set[asyncio.Task[None]] = set()  # grammars of requests that the engine does not have yet
        self._stall = StallWatch()
        self.draining = False

    async def start(self, host: str, port: int) -> int:
        """Starts the thread and the server; returns the port."""
        self._asyncio = asyncio.get_running_loop()
        self.loop.start()
        self._server, bound = self._transport.server(f"{host}:{port}")
        rpc.add_VerifierServicer_to_server(self, self._server)  # type: ignore[no-untyped-call]
        await self._server.start()
        self._watching = asyncio.create_task(self._watch_device())
        return bound

    async def stop(self) -> None:
        self._watching.cancel()
        for client in self.clients.values():
            await client.close()
        await self._server.stop(grace=0.2)
        self.loop.stop()

    @property
    def takes_requests(self) -> bool:
        return not self.loop.trouble and not self.draining

    @property
    def stalled(self) -> bool:
        """Its device does not come back from a step."""
        return self._stall.stalled

    async def _watch_device(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            expected_s = self.loop.engine.pricing.plain_s
            if self._stall.look(self.loop.round, expected_s):
                if self.stalled:
                    message = f"a step that should take {expected_s:.3f} s does not come back: gateways are told to go on elsewhere"
                    log_event(logger, logging.WARNING, "stalled", message, requests=len(self._requests))
                else:
                    log_event(logger, logging.WARNING, "stall over", "the device has come back", requests=len(self._requests))
                for stream in self._streams:
                    stream.stall(self.stalled)

    async def drain(self, limit_s: float) -> None:
        """Takes nothing new and asks the gateways to go on elsewhere; what has nowhere to go runs on here for `limit_s`.

        Returns when no request is left. A second call does nothing.
        """
        if self.draining:
            return
        self.draining = True
        for stream in self._streams:
            stream.drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._empty()
        for request, attempt in list(self._requests):
            self._end(GenerateReply(request, attempt, 0, (), "moved"))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_S):
                await self._empty()

    async def _empty(self) -> None:
        """Returns when all has been said to all."""
        while not all(stream.empty for stream in self._streams):
            self._left.clear()
            await self._left.wait()

    async def Connect(self, request_iterator: AsyncIterator[pb.FromGateway], context: Any) -> None:
        if self.loop.trouble:
            await context.abort(grpc.StatusCode.UNAVAILABLE, self.loop.trouble)
        try:
            peer = said_in(context.invocation_metadata())
            OURS.check(peer, "gateway")
        except IncompatibleError as error:
            logger.warning("gateway at %s is not served: %s", context.peer(), error)
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        await context.send_initial_metadata(((VERIFIER_METADATA, self.name), *OURS.metadata()))
        serving = asyncio.current_task()
        assert serving is not None
        stream = GatewayStream(context.peer(), peer, self.draining, cut=serving.cancel)
        stream.stall(self.stalled)
        self._streams.add(stream)
        reader = asyncio.create_task(self._read(stream, request_iterator))
        try:
            while not reader.done():
                await stream.ready(BEAT_S)
                if self.loop.trouble:
                    await context.abort(grpc.StatusCode.UNAVAILABLE, self.loop.trouble)
                await context.write(stream.take())
                self._left.set()
            if stream.unreadable:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, UNREADABLE)
        except asyncio.CancelledError:
            if not stream.over_full:
                raise
            self._lose(stream)
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "this gateway does not read what it is sent")
        finally:
            reader.cancel()
            self._lose(stream)

    def _lose(self, stream: GatewayStream) -> None:
        """What its gateway asked for is not wanted any more."""
        self._streams.discard(stream)
        for key in list(stream.requests):
            self._forget(key)
        self._left.set()

    async def _read(self, stream: GatewayStream, requests: AsyncIterator[pb.FromGateway]) -> None:
        try:
            await while_heard(stream.silence, self._listen(stream, requests))
        except (grpc.RpcError, ConnectionError) as error:
            logger.info("gateway at %s: %s", stream.name, error)
        except DecodeError:
            stream.unreadable = True
            logger.warning("gateway at %s: %s; its stream ends", stream.name, UNREADABLE)
        finally:
            self._lose(stream)  # at once: a write to a gateway that stands still may take until keepalive ends it
            stream.wake()

    async def _listen(self, stream: GatewayStream, requests: AsyncIterator[pb.FromGateway]) -> None:
        async for batch in requests:
            stream.silence.heard()
            for start in batch.starts:
                self._begin(stream, start)
            for cancel in batch.cancels:
                if self._requests.get((cancel.request_id, cancel.attempt)) is stream:
                    self._forget((cancel.request_id, cancel.attempt))
            if batch.give_back.count:
                self._give_back(set(stream.requests), GiveBack(batch.give_back.count, batch.give_back.begun))

    def _begin(self, stream: GatewayStream, start: pb.GenerateRequest) -> None:
        """Gives the request to the engine, or refuses it."""
        key = (start.request_id, start.attempt)
        try:
            request = from_request_proto(start)
        except WireError as error:
            stream.refuse(Refusal(*key, RefusalKind.WRONG, str(error)))
            return
        if key in self._requests:
            reason = f"request {request.request_id} is running already, attempt {request.attempt}"
            stream.refuse(Refusal(*key, RefusalKind.WRONG, reason))
        elif not self.takes_requests:
            stream.refuse(Refusal(*key, RefusalKind.NOT_TAKEN, "this verifier takes no new requests"))
        else:
            self._supersede(request)
            self._requests[key] = stream
            stream.requests.add(key)
            self._submit(request)

    def _supersede(self, request: GenerateRequest) -> None:
        """Ends older attempts, whose gateway has gone elsewhere and come back. The engine frees them when it takes the newer one."""
        for key in [key for key in self._requests if key[0] == request.request_id and key[1] < request.attempt]:
            stream = self._drop(key)
            stream.say(GenerateReply(*key, 0, (), "error", f"superseded by attempt {request.attempt}"))

    def _submit(self, request: GenerateRequest) -> None:
        """With a grammar that is not known yet, once it has been compiled: neither here nor in the engine's thread."""
        grammar = request.sampling.grammar
        if grammar is None or (matcher := self.loop.engine.grammars.known(grammar)) is not None:
            self._post(request, None if grammar is None else matcher)
            return
        compiling = asyncio.create_task(self._compile(request, grammar))
        self._compiling.add(compiling)
        compiling.add_done_callback(self._compiling.discard)

    async def _compile(self, request: GenerateRequest, grammar: Grammar) -> None:
        key = (request.request_id, request.attempt)
        try:
            matcher = await asyncio.to_thread(self.loop.engine.grammars.matcher, grammar)
        except DrafthouseError as error:
            self._refuse(key, error)
            return
        except Exception as error:  # fault boundary: the request has its last reply
            logger.exception("a grammar could not be compiled")
            words = f"{type(error).__name__}: {error}"
            self._end(GenerateReply(*key, len(request.delivered), (), "error", words))
            return
        if key in self._requests:
            self._post(request, matcher)

    def _post(self, request: GenerateRequest, matcher: GrammarMatcher | None) -> None:
        """What the engine says against the request goes to its gateway."""
        key = (request.request_id, request.attempt)

        def command(engine: VerifierEngine) -> None:
            try:
                engine.submit(request, matcher)
            except DrafthouseError as refused:
                self._asyncio.call_soon_threadsafe(self._refuse, key, refused)
            except Exception as error:  # the request has its last reply, and the thread counts a fault
                words = f"{type(error).__name__}: {error}"
                last = GenerateReply(*key, len(request.delivered), (), "error", words)
                self._asyncio.call_soon_threadsafe(self._end, last)
                raise

        self.loop.post(command)

    def _give_back(self, requests: Set[Key], wish: GiveBack) -> None:
        """Lets the first of these requests go that wait when the engine hears of it."""

        def wanted(s: Sequence) -> bool:
            return (s.id, s.request.attempt) in requests and (wish.begun or not s.output_len)

        def command(engine: VerifierEngine) -> None:
            if returned := engine.give_back(wish.count, wanted):
                self._deliver_from_thread(returned, {})

        self.loop.post(command)

    def _refuse(self, key: Key, error: DrafthouseError) -> None:
        stream = self._requests.get(key)
        if stream is None:
            return
        if isinstance(error, OverloadError):
            stream.refuse(Refusal(*key, RefusalKind.FULL, str(error), error.retry_after_s))
        else:
            stream.refuse(Refusal(*key, RefusalKind.WRONG if isinstance(error, RequestError) else RefusalKind.NOT_TAKEN, str(error)))
        self._forget(key)

    def _end(self, last: GenerateReply) -> None:
        """Says it, if the request is still there, and frees what the request holds."""
        key = (last.request_id, last.attempt)
        if (stream := self._requests.get(key)) is not None:
            stream.say(last)
            self._forget(key)

    def _forget(self, key: Key) -> None:
        """Of this request nothing more is said, and the engine holds nothing for it from now on."""
        self._drop(key)
        self.loop.post_cancel(*key)

    def _drop(self, key: Key) -> GatewayStream:
        stream = self._requests.pop(key)
        stream.requests.discard(key)
        return stream

    def set_drafters(self, routes: Iterable[Route]) -> None:
        """Dials drafters that are new, leaves those that are gone. On the event loop."""
        wanted = {route.replica: route.address for route in routes}
        for replica, client in list(self.clients.items()):
            if wanted.get(replica) != client.address:
                del self.clients[replica]
                closing = asyncio.create_task(client.close())
                closing.add_done_callback(lambda _: None)
        for replica, address in wanted.items():
            if replica not in self.clients:
                self.clients[replica] = DrafterClient(
                    replica, address, self.name, self._transport,
                    self._drafter_connected, self._drafter_lost, self._drafter_said, self._malformed,
                )  # fmt: skip

    def _drafter_connected(self, drafter: str, wish: StatesWish | None) -> None:
        self.loop.post_arrival(lambda engine: engine.draft_sessions.add_drafter(drafter, wish))

    def _drafter_lost(self, drafter: str) -> None:
        self.loop.post_arrival(lambda engine: engine.lose_drafter(drafter))

    def _drafter_said(self, drafter: str, messages: list[ToVerifierMessage]) -> None:
        arrived = self.loop.engine.clock()

        def command(engine: VerifierEngine) -> None:
            for message in messages:
                engine.receive(drafter, message, arrived)

        self.loop.post_arrival(command)

    def _malformed(self, session: str, epoch: int, reason: str) -> None:
        self.loop.post_arrival(lambda engine: engine.fail_session(session, epoch, reason))

    def _deliver_from_thread(self, replies: list[GenerateReply], messages: dict[str, list[ToDrafterMessage]]) -> None:
        self._asyncio.call_soon_threadsafe(self._deliver, replies, messages)

    def _deliver(self, replies: list[GenerateReply], messages: dict[str, list[ToDrafterMessage]]) -> None:
        for drafter, said in messages.items():
            if (client := self.clients.get(drafter)) is not None:
                client.send(said)
        for reply in replies:
            key = (reply.request_id, reply.attempt)
            if (stream := self._requests.get(key)) is None:
                continue
            if reply.finish_reason == "refused":  # no other verifier would do better, and this one has not failed
                self._refuse(key, RequestError(reply.error, "grammar"))
                continue
            stream.say(reply)
            if reply.finish_reason:
                self._forget(key)
