"""The verifier's data plane: `Generate` streams for gateways, one client per drafter it may use.

Promises: each accepted request's stream ends with exactly one reply that has a finish_reason, and is never silent for
longer than a beat while this process runs; a stream that is cancelled frees its KV slots before the next step; with TLS on,
nobody is served without. Draining, it takes nothing new and is left by every stream within the time it is given.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, replace
from typing import Any

import grpc

from drafthouse.errors import DrafthouseError, OverloadError, RequestError, WireError
from drafthouse.wire.generation_messages import GenerateReply, GenerateRequest, from_request_proto, to_reply_proto
from drafthouse.wire.membership import Route
from drafthouse.wire.session_messages import ToDrafterMessage, ToVerifierMessage
from drafthouse.wire.settings import retry_metadata
from drafthouse.wire.silence import BEAT_S
from drafthouse.wire.transport import PLAINTEXT, Transport
from protos import dataplane_pb2 as pb
from protos import dataplane_pb2_grpc as rpc
from verifier.drafter_client import DrafterClient
from verifier.engine import VerifierEngine
from verifier.step_loop import StepLoop

FAREWELL_S = 0.5
"""What is told to go finds the way out in this time; then the server stops anyway."""


@dataclass(frozen=True, slots=True)
class _Leaving:
    """To every stream: this verifier drains; with finish reason `moved`, it goes on no longer."""

    finish_reason: str


_Replies = asyncio.Queue[GenerateReply | _Leaving | DrafthouseError]


class VerifierServer(rpc.VerifierServicer):
    def __init__(self, engine: VerifierEngine, name: str, transport: Transport = PLAINTEXT):
        self.name, self._transport = name, transport
        self.loop = StepLoop(engine, self._deliver_from_thread)
        self.clients: dict[str, DrafterClient] = {}
        self._streams: dict[tuple[str, int], _Replies] = {}
        self._left = asyncio.Event()  # by a stream
        self.draining = False

    async def start(self, host: str, port: int) -> int:
        """Starts the thread and the server; returns the port."""
        self._asyncio = asyncio.get_running_loop()
        self.loop.start()
        self._server, bound = self._transport.server(f"{host}:{port}")
        rpc.add_VerifierServicer_to_server(self, self._server)  # type: ignore[no-untyped-call]
        await self._server.start()
        return bound

    async def stop(self) -> None:
        for client in self.clients.values():
            await client.close()
        await self._server.stop(grace=0.2)
        self.loop.stop()

    @property
    def takes_requests(self) -> bool:
        return not self.loop.trouble and not self.draining

    async def drain(self, limit_s: float) -> None:
        """Takes nothing new and asks the gateways to go on elsewhere; what has nowhere to go runs on here for `limit_s`.

        Returns when no stream is left. A second call does nothing.
        """
        if self.draining:
            return
        self.draining = True
        self._tell(_Leaving(""))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._empty()
        self._tell(_Leaving("moved"))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_S):
                await self._empty()

    def _tell(self, leaving: _Leaving) -> None:
        for queue in self._streams.values():
            queue.put_nowait(leaving)

    async def _empty(self) -> None:
        while self._streams:
            self._left.clear()
            await self._left.wait()

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> AsyncIterator[pb.GenerateReply]:
        try:
            parsed = from_request_proto(request)
        except WireError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            return
        key = (parsed.request_id, parsed.attempt)
        if key in self._streams:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, f"request {parsed.request_id} is running already, attempt {parsed.attempt}"
            )
            return
        if not self.takes_requests:
            await context.abort(grpc.StatusCode.ABORTED, "this verifier takes no new requests")
            return
        queue: _Replies = asyncio.Queue()
        self._streams[key] = queue
        self._supersede(parsed)
        self._submit(parsed, queue)
        try:
            async for reply in self._replies(queue, GenerateReply(*key, len(parsed.delivered), ())):
                yield to_reply_proto(reply)
        except OverloadError as error:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error), retry_metadata(error.retry_after_s))
        except RequestError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except ConnectionError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        finally:
            del self._streams[key]
            self._left.set()
            self.loop.post_cancel(*key)

    async def _replies(self, queue: _Replies, nothing_new: GenerateReply) -> AsyncIterator[GenerateReply]:
        """What there is to say up to the end, and every beat at least that there is nothing new.

        Raises what the engine says of the request, ConnectionError when nobody is left to work on it.
        """
        while True:
            item: GenerateReply | _Leaving | DrafthouseError = nothing_new
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BEAT_S):
                    item = await queue.get()
            if isinstance(item, DrafthouseError):
                raise item
            if isinstance(item, _Leaving):
                item = replace(nothing_new, finish_reason=item.finish_reason, draining=True)
            elif item is nothing_new and self.loop.trouble:
                raise ConnectionError(self.loop.trouble)
            yield item
            if item.finish_reason:
                return
            nothing_new = replace(nothing_new, first_token_index=item.first_token_index + len(item.tokens), usage=item.usage)

    def _supersede(self, request: GenerateRequest) -> None:
        """Ends the streams of older attempts, whose gateway has gone elsewhere and come back."""
        for (name, attempt), queue in self._streams.items():
            if name == request.request_id and attempt < request.attempt:
                queue.put_nowait(GenerateReply(name, attempt, 0, (), "error", f"superseded by attempt {request.attempt}"))

    def _submit(self, request: GenerateRequest, queue: _Replies) -> None:
        """What the engine says against the request goes to its queue."""

        def command(engine: VerifierEngine) -> None:
            try:
                engine.submit(request)
            except DrafthouseError as refused:
                self._asyncio.call_soon_threadsafe(queue.put_nowait, refused)
            except Exception as error:  # the request has its last reply, and the thread counts a fault
                words = f"{type(error).__name__}: {error}"
                last = GenerateReply(request.request_id, request.attempt, len(request.delivered), (), "error", words)
                self._asyncio.call_soon_threadsafe(queue.put_nowait, last)
                raise

        self.loop.post(command)

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

    def _drafter_connected(self, drafter: str) -> None:
        self.loop.post_arrival(lambda engine: engine.draft_sessions.add_drafter(drafter))

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
            if (queue := self._streams.get((reply.request_id, reply.attempt))) is not None:
                queue.put_nowait(reply)
