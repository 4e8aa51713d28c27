"""A verifier for tests of the gateway: a real grpc.aio server whose tokens are a function of the prompt."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc

from drafthouse.wire.generation_messages import GenerateReply, GenerateRequest, SpeculationUsage, from_request_proto, to_reply_proto
from drafthouse.wire.membership import Route
from drafthouse.wire.settings import CHANNEL_OPTIONS, retry_metadata
from protos import dataplane_pb2_grpc

USAGE = SpeculationUsage(drafted=9, verified=8, accepted=5, steps=3, cached_tokens=1)


def text_of(request: GenerateRequest) -> tuple[int, ...]:
    """What every verifier says to this request."""
    return tuple((sum(request.prompt) + 7 * i) % 200 + 1 for i in range(request.max_tokens))


@dataclass
class VerifierDouble(dataplane_pb2_grpc.VerifierServicer):
    """Sends `step` tokens at a time; `before(index, context)` runs before the reply that begins at output token `index`."""

    name: str
    tokens: Callable[[GenerateRequest], tuple[int, ...]] = text_of
    step: int = 2
    before: Callable[[int, grpc.aio.ServicerContext], "asyncio.Future[None] | object"] | None = None
    fingerprint: str = "f"
    load: int = 0
    usage: SpeculationUsage = USAGE
    seen: list[GenerateRequest] = field(default_factory=list)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    address: str = ""

    @property
    def route(self) -> Route:
        return Route(self.name, self.address, self.fingerprint, self.load, 8)

    async def Generate(self, message, context):
        request = from_request_proto(message)
        self.seen.append(request)
        output = self.tokens(request)
        try:
            for index in range(len(request.delivered), len(output), self.step):
                if self.before is not None:
                    await self.before(index, context)
                yield to_reply_proto(self.reply(request, index, output))
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    def reply(self, request: GenerateRequest, index: int, output: tuple[int, ...]) -> GenerateReply:
        last = index + self.step >= len(output)
        tokens = output[index : index + self.step]
        return GenerateReply(request.request_id, request.attempt, index, tokens, "length" if last else "", "", self.usage)


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


def at(index: int, code: grpc.StatusCode, details: str = "broken", retry_after_s: float | None = None):
    """A `before` that ends the stream with a status at this output token."""

    async def before(here: int, context: grpc.aio.ServicerContext) -> None:
        if here >= index:
            await context.abort(code, details, () if retry_after_s is None else retry_metadata(retry_after_s))

    return before


async def forever(index: int, context: grpc.aio.ServicerContext) -> None:
    """A `before` that never lets a reply out."""
    await asyncio.Event().wait()
