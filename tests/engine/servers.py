"""Both servers over real gRPC on loopback for tests, a drafter that only a test speaks for, and waits with a bound."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from deployments.gateway.request_progress import Broken
from deployments.gateway.verifier_stream import VerifierStream
from drafter.engine import DrafterEngine
from drafter.server import DrafterServer
from drafthouse.config.serving import DrafterConfig, TreeConfig, VerifierConfig
from drafthouse.engine.loader import LoadedModel
from drafthouse.errors import RequestError
from drafthouse.wire.generation_messages import GenerateReply, GenerateRequest
from drafthouse.wire.membership import Route
from drafthouse.wire.settings import DRAFTER_METADATA
from drafthouse.wire.transport import PLAINTEXT
from protos import dataplane_pb2 as pb
from protos import dataplane_pb2_grpc as rpc
from tests.engine.pairs import FAST, FLAT, loaded, noisy_copy
from tests.engine.tiny_models import tiny
from verifier.engine import VerifierEngine
from verifier.server import VerifierServer

HOST = "127.0.0.1"


async def start_drafter(noise: float, name: str, config: DrafterConfig | None = None) -> tuple[DrafterServer, Route]:
    return await serve_drafter(loaded(noisy_copy("llama", 0, noise)), name, config)


async def serve_drafter(draft: LoadedModel, name: str, config: DrafterConfig | None = None) -> tuple[DrafterServer, Route]:
    engine = DrafterEngine(draft, FAST, config or DrafterConfig(), TreeConfig())
    server = DrafterServer(engine, name)
    port = await server.start(HOST, 0)
    return server, Route(name, f"{HOST}:{port}", "", 0, 64)


class RawDrafter(rpc.DrafterServicer):
    """A drafter without an engine: keeps what it hears, says what a test gives it; None ends the stream. `mute`: it does not even
    echo, as a process that is stopped. `says`: the metadata of what it understands."""

    def __init__(self, mute: bool = False, says: tuple[tuple[str, str], ...] = ()) -> None:
        self.mute, self.says = mute, says
        self.heard: list[pb.ToDrafter] = []
        self.say: asyncio.Queue[pb.ToVerifier | None] = asyncio.Queue()

    async def start(self, port: int = 0) -> Route:
        self.server, port = PLAINTEXT.server(f"{HOST}:{port}")
        rpc.add_DrafterServicer_to_server(self, self.server)  # type: ignore[no-untyped-call]
        await self.server.start()
        return Route("raw", f"{HOST}:{port}", "", 0, 64)

    async def Connect(self, request_iterator: AsyncIterator[pb.ToDrafter], context: Any) -> AsyncIterator[pb.ToVerifier]:
        await context.send_initial_metadata(((DRAFTER_METADATA, "raw"), *self.says))
        reader = asyncio.create_task(self._read(request_iterator))
        try:
            while (batch := await self.say.get()) is not None:
                yield batch
        finally:
            reader.cancel()

    async def _read(self, requests: AsyncIterator[pb.ToDrafter]) -> None:
        async for batch in requests:
            self.heard.append(batch)
            if batch.echo_us and not self.mute:
                await self.say.put(pb.ToVerifier(drafter="raw", echo_us=batch.echo_us))

    def messages(self, kind: str) -> list[Any]:
        return [getattr(m, kind) for batch in self.heard for m in batch.messages if m.WhichOneof("kind") == kind]


async def start_routed(name: str, config: VerifierConfig | None = None) -> tuple[VerifierServer, Route]:
    engine = VerifierEngine(loaded(tiny("llama")), FLAT, config or VerifierConfig(), TreeConfig())
    server = VerifierServer(engine, name)
    port = await server.start(HOST, 0)
    return server, Route(name, f"{HOST}:{port}", "f", 0, 64)


async def connect(address: str) -> VerifierStream:
    """A gateway's stream to a verifier."""
    stream = VerifierStream(PLAINTEXT.channel(address), lambda _: None)
    await stream.open()
    return stream


async def start_verifier(config: VerifierConfig | None = None) -> tuple[VerifierServer, VerifierStream]:
    server, route = await start_routed("verifier", config)
    return server, await connect(route.address)


async def replies_of(stream: VerifierStream, r: GenerateRequest) -> list[GenerateReply]:
    """To the last."""
    call, replies = stream.start(r), list[GenerateReply]()
    while not (replies and replies[-1].finish_reason):
        replies += await call.read()
    return replies


async def collect(stream: VerifierStream, r: GenerateRequest) -> list[int]:
    tokens: list[int] = []
    replies = await replies_of(stream, r)
    for reply in replies:
        assert reply.first_token_index == len(tokens)
        tokens += reply.tokens
    assert replies[-1].finish_reason in ("stop", "length"), replies[-1].error
    return tokens


async def refusal(stream: VerifierStream, r: GenerateRequest) -> tuple[type[Exception], str]:
    """What a refused request gets."""
    with pytest.raises((RequestError, Broken)) as caught:
        await collect(stream, r)
    return type(caught.value), str(caught.value)


async def until(condition: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    for _ in range(int(seconds / 0.01)):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"waited {seconds} s for: {what}")


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 60))  # type: ignore[arg-type]
