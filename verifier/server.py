"""The verifier's data plane: `Generate` streams for gateways, one client per drafter it may use.

Promises: each accepted request's stream ends with exactly one reply that has a finish_reason;
a stream that is cancelled frees its KV slots before the next step; with TLS on, nobody is served without.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc

from drafthouse.errors import DrafthouseError, OverloadError, RequestError, WireError
from drafthouse.generation_messages import GenerateReply, GenerateRequest, from_request_proto, to_reply_proto
from drafthouse.membership import Route
from drafthouse.session_messages import ToDrafterMessage, ToVerifierMessage
from drafthouse.transport import PLAINTEXT, Transport
from protos import dataplane_pb2 as pb
from protos import dataplane_pb2_grpc as rpc
from verifier.drafter_client import DrafterClient
from verifier.engine import VerifierEngine
from verifier.step_loop import StepLoop


class VerifierServer(rpc.VerifierServicer):
    def __init__(self, engine: VerifierEngine, name: str, transport: Transport = PLAINTEXT):
        self.name, self._transport = name, transport
        self.loop = StepLoop(engine, self._deliver_from_thread)
        self.clients: dict[str, DrafterClient] = {}
        self._streams: dict[tuple[str, int], asyncio.Queue[GenerateReply]] = {}

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

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> AsyncIterator[pb.GenerateReply]:
        try:
            parsed = from_request_proto(request)
        except WireError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            return
        key = (parsed.request, parsed.attempt)
        if key in self._streams:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"request {parsed.request} is running already, attempt {parsed.attempt}")
            return
        queue = self._streams[key] = asyncio.Queue()
        self._supersede(parsed)
        try:
            await self._submit(parsed)
            while True:
                reply = await queue.get()
                yield to_reply_proto(reply)
                if reply.finish_reason:
                    return
        except OverloadError as error:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        except RequestError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        finally:
            del self._streams[key]
            self.loop.post(lambda engine: engine.cancel(*key))

    def _supersede(self, request: GenerateRequest) -> None:
        """Ends the streams of older attempts, whose gateway has gone elsewhere and come back."""
        for (name, attempt), queue in self._streams.items():
            if name == request.request and attempt < request.attempt:
                queue.put_nowait(GenerateReply(name, attempt, 0, (), "error", f"superseded by attempt {request.attempt}"))

    async def _submit(self, request: GenerateRequest) -> None:
        """Raises what the engine says of the request."""
        done: asyncio.Future[None] = self._asyncio.create_future()

        def finish(error: DrafthouseError | None) -> None:
            if done.cancelled():
                return
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

        def command(engine: VerifierEngine) -> None:
            try:
                engine.submit(request)
                error = None
            except DrafthouseError as refused:
                error = refused
            self._asyncio.call_soon_threadsafe(finish, error)

        self.loop.post(command)
        await done

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
        self.loop.post(lambda engine: engine.drafting.add_drafter(drafter))

    def _drafter_lost(self, drafter: str) -> None:
        self.loop.post(lambda engine: engine.lose_drafter(drafter))

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
            if (queue := self._streams.get((reply.request, reply.attempt))) is not None:
                queue.put_nowait(reply)
