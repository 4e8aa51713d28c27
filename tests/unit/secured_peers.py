"""A verifier and a drafter that listen with some transport, and what a gateway or a verifier with another gets from them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from deployments.gateway.verifier_link import VerifierLink
from drafthouse.wire.membership import Route
from drafthouse.wire.settings import DRAFTER_METADATA
from drafthouse.wire.transport import Transport
from protos import dataplane_pb2 as pb
from protos import dataplane_pb2_grpc as rpc
from tests.unit.test_verifier_link import collect, tokens_of
from tests.unit.verifier_double import VerifierDouble
from verifier.drafter_client import DrafterClient


class DrafterDouble(rpc.DrafterServicer):
    """Takes every stream and counts them."""

    streams = 0

    async def Connect(self, requests: AsyncIterator[pb.ToDrafter], context: grpc.aio.ServicerContext) -> AsyncIterator[pb.ToVerifier]:
        self.streams += 1
        await context.send_initial_metadata(((DRAFTER_METADATA, "d"),))
        async for _ in requests:
            yield pb.ToVerifier(drafter="d")


@asynccontextmanager
async def listening(transport: Transport, port: int = 0) -> AsyncIterator[tuple[VerifierDouble, DrafterDouble, str]]:
    """(verifier, drafter, their address); both at one address."""
    server, bound = transport.server(f"127.0.0.1:{port}")
    verifier, drafter = VerifierDouble("a"), DrafterDouble()
    rpc.add_VerifierServicer_to_server(verifier, server)
    rpc.add_DrafterServicer_to_server(drafter, server)
    await server.start()
    try:
        yield verifier, drafter, f"127.0.0.1:{bound}"
    finally:
        await server.stop(None)


async def generated(transport: Transport, address: str) -> tuple[int, ...]:
    """What a gateway with this transport gets."""
    link = VerifierLink(0.3, transport)
    link.update((Route("a", address, "f", 0, 8),))
    try:
        return tokens_of(await collect(link))
    finally:
        await link.close()


async def drafter_events(transport: Transport, address: str, seconds: float) -> list[str]:
    """What a verifier's client with this transport says of the drafter."""
    events: list[str] = []
    connected = asyncio.Event()

    def heard(name: str, wish: object) -> None:
        events.append(f"connected {name}")
        connected.set()

    client = DrafterClient(
        "d", address, "v", transport, heard, lambda name: events.append(f"lost {name}"), lambda *said: None, lambda *bad: None
    )
    try:
        async with asyncio.timeout(seconds):
            await connected.wait()
    except TimeoutError:
        pass
    await client.close()
    return events
