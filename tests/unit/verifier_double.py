"""A verifier for tests of the gateway: a real grpc.aio server whose tokens are a function of the prompt."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import grpc

from drafthouse.wire.dialect import Dialect, said_in
from drafthouse.wire.generation_messages import (
    GenerateReply,
    GenerateRequest,
    Refusal,
    RefusalKind,
    SpeculationUsage,
    from_request_proto,
    to_refusal_proto,
    to_reply_proto,
)
from drafthouse.wire.membership import Route
from drafthouse.wire.settings import CHANNEL_OPTIONS, VERIFIER_METADATA
from protos import dataplane_pb2 as pb
from protos import dataplane_pb2_grpc

USAGE = SpeculationUsage(drafted=9, verified=8, accepted=5, steps=3, cached_tokens=1)


def text_of(request: GenerateRequest) -> tuple[int, ...]:
    """What every verifier says to this request."""
    return tuple((sum(request.prompt) + 7 * i) % 200 + 1 for i in range(request.max_tokens))


class Served:
    """One request on a gateway's stream, in the hands of a test."""

    def __init__(self, request: GenerateRequest, say: "asyncio.Queue[pb.ToGateway | None]") -> None:
        self.request, self._say = request, say

    async def write(self, reply: GenerateReply) -> None:
        await self._say.put(pb.ToGateway(replies=[to_reply_proto(reply)]))

    async def refuse(self, kind: RefusalKind, reason: str, retry_after_s: float = 0.0) -> None:
        """Nothing more comes of it."""
        refusal = Refusal(self.request.request_id, self.request.attempt, kind, reason, retry_after_s)
        await self._say.put(pb.ToGateway(refusals=[to_refusal_proto(refusal)]))
        await asyncio.Event().wait()

    async def beat(self, draining: bool = False, stalled: bool = False) -> None:
        await self._say.put(pb.ToGateway(draining=draining, stalled=stalled))

    async def cut(self) -> None:
        """Ends the whole stream."""
        await self._say.put(None)
        await asyncio.Event().wait()


@dataclass
class VerifierDouble(dataplane_pb2_grpc.VerifierServicer):
    """Sends `step` tokens at a time; `before(index, served)` runs before the reply that begins at output token `index`. `status` and
    `details` are those of streams that a test cuts. `says` is the metadata of what it understands, `told` what
    gateways said of themselves."""

    name: str
    tokens: Callable[[GenerateRequest], tuple[int, ...]] = text_of
    step: int = 2
    before: Callable[[int, Served], "asyncio.Future[None] | object"] | None = None
    fingerprint: str = "f"
    load: int = 0
    usage: SpeculationUsage = USAGE
    status: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE
    details: str = "broken"
    seen: list[GenerateRequest] = field(default_factory=list)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    address: str = ""
    streams: int = 0
    heard: int = 0
    says: tuple[tuple[str, str], ...] = ()
    told: list[Dialect] = field(default_factory=list)
    asked_back: list[tuple[int, bool]] = field(default_factory=list)

    @property
    def route(self) -> Route:
        return Route(self.name, self.address, self.fingerprint, self.load, 8)

    async def Connect(self, request_iterator, context):
        self.streams += 1
        self.told.append(said_in(context.invocation_metadata()))
        await context.send_initial_metadata(((VERIFIER_METADATA, self.name), *self.says))
        say: asyncio.Queue[pb.ToGateway | None] = asyncio.Queue()
        tasks: dict[tuple[str, int], asyncio.Task[None]] = {}
        reader = asyncio.create_task(self._read(request_iterator, say, tasks))
        try:
            while (message := await say.get()) is not None:
                yield message
            await context.abort(self.status, self.details)
        finally:
            for task in (reader, *tasks.values()):
                task.cancel()

    async def _read(self, batches, say, tasks) -> None:
        async for batch in batches:
            self.heard += 1
            for start in batch.starts:
                request = from_request_proto(start)
                self.seen.append(request)
                tasks[start.request_id, start.attempt] = asyncio.create_task(self._serve(request, Served(request, say)))
            if batch.give_back.count:
                self.asked_back.append((batch.give_back.count, batch.give_back.begun))
            for cancel in batch.cancels:
                tasks[cancel.request_id, cancel.attempt].cancel()

    async def _serve(self, request: GenerateRequest, served: Served) -> None:
        output = self.tokens(request)
        try:
            for index in range(len(request.delivered), len(output), self.step):
                if self.before is not None:
                    await self.before(index, served)
                await served.write(self.reply(request, index, output))
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    def reply(self, request: GenerateRequest, index: int, output: tuple[int, ...]) -> GenerateReply:
        last = index + self.step >= len(output)
        tokens = output[index : index + self.step]
        return GenerateReply(request.request_id, request.attempt, index, tokens, "length" if last else "", "", self.usage)


class Drafting(VerifierDouble):
    """Each reply is one step's: all of its tokens but the last are accepted drafts."""

    def reply(self, request: GenerateRequest, index: int, output: tuple[int, ...]) -> GenerateReply:
        plain = super().reply(request, index, output)
        steps = index // self.step + 1
        done = index + len(plain.tokens)
        return replace(plain, usage=SpeculationUsage(drafted=9 * steps, verified=8 * steps, accepted=done - steps, steps=steps))


@asynccontextmanager
async def serving(*verifiers: VerifierDouble) -> AsyncIterator[tuple[Route, ...]]:
    servers = []
    for verifier in verifiers:
        server = grpc.aio.server(options=CHANNEL_OPTIONS)
        dataplane_pb2_grpc.add_VerifierServicer_to_server(verifier, server)
        verifier.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        servers.append(server)
    try:
        yield tuple(verifier.route for verifier in verifiers)
    finally:
        await asyncio.gather(*(server.stop(None) for server in servers))


def refusing(kind: RefusalKind, reason: str = "refused", retry_after_s: float = 0.0, index: int = 0):
    """A `before` that refuses every request, by default before its first token."""

    async def before(here: int, served: Served) -> None:
        if here >= index:
            await served.refuse(kind, reason, retry_after_s)

    return before


def cut_at(index: int):
    """A `before` that ends the whole stream at this output token."""

    async def before(here: int, served: Served) -> None:
        if here >= index:
            await served.cut()

    return before


async def forever(index: int, served: Served) -> None:
    """A `before` that never lets a reply out."""
    await asyncio.Event().wait()
