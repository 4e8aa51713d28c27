"""Mutual TLS and the shared token on real gRPC servers: who is let in, who is not, and that secrets stay secret."""

import asyncio
import logging
import pathlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest

from deployments.verifier_link import NoVerifierError, VerifierLink
from drafthouse.config import ServingConfig
from drafthouse.generation_messages import to_request_proto
from drafthouse.membership import Route
from drafthouse.transport import PLAINTEXT, MutualTls, Transport, load_transport
from drafthouse.wire import DRAFTER_METADATA
from protos import dataplane_pb2 as pb
from protos import dataplane_pb2_grpc as rpc
from tests.unit.certificates import TOKEN, Authority
from tests.unit.test_verifier_link import REQUEST, collect, tokens_of
from tests.unit.verifier_double import VerifierDouble, text_of
from verifier.drafter_client import DrafterClient

OURS, FOREIGN, IMPOSTOR = Authority("ours"), Authority("foreign"), Authority("ours")
WRONG_TOKEN = "another-token-of-twenty-characters"


@pytest.fixture
def ours(tmp_path: pathlib.Path) -> MutualTls:
    return MutualTls(OURS.issue().write(tmp_path / "ours"))


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

    def heard(name: str) -> None:
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


def test_peers_of_one_authority_with_the_token_reach_each_other(ours: MutualTls, tmp_path: pathlib.Path) -> None:
    other = MutualTls(OURS.issue().write(tmp_path / "other"))

    async def run() -> None:
        async with listening(ours) as (_, drafter, address):
            assert await generated(other, address) == text_of(REQUEST)
            assert await drafter_events(other, address, 5.0) == ["connected d", "lost d"]
            assert drafter.streams == 1

    asyncio.run(run())


def stranger(kind: str, folder: pathlib.Path) -> Transport:
    """A peer that may not join. None of them passes the checks of its own side by accident."""
    if kind == "plaintext":
        return PLAINTEXT
    if kind == "another authority":
        return MutualTls(FOREIGN.issue().write(folder))
    if kind == "an authority of the same name":
        return MutualTls(IMPOSTOR.issue().write(folder))
    if kind == "another authority that trusts ours":
        leaf = FOREIGN.issue()
        leaf.authority += OURS.certificate
        return MutualTls(leaf.write(folder))
    return MutualTls(OURS.issue().write(folder, token=WRONG_TOKEN))


STRANGERS = ["plaintext", "another authority", "an authority of the same name", "another authority that trusts ours", "wrong token"]


@pytest.mark.parametrize("kind", STRANGERS)
def test_strangers_are_refused_by_verifiers_and_drafters(kind: str, ours: MutualTls, tmp_path: pathlib.Path) -> None:
    async def run() -> None:
        peer = stranger(kind, tmp_path / "stranger")
        async with listening(ours) as (verifier, drafter, address):
            with pytest.raises(NoVerifierError):
                await generated(peer, address)
            assert await drafter_events(peer, address, 0.5) == []
            assert (verifier.seen, drafter.streams) == ([], 0)

    asyncio.run(run())


@pytest.mark.parametrize("kind", STRANGERS[:4])
def test_nothing_is_sent_to_a_server_that_is_a_stranger(kind: str, ours: MutualTls, tmp_path: pathlib.Path) -> None:
    async def run() -> None:
        async with listening(stranger(kind, tmp_path / "stranger")) as (verifier, drafter, address):
            with pytest.raises(NoVerifierError):
                await generated(ours, address)
            assert await drafter_events(ours, address, 0.5) == []
            assert (verifier.seen, drafter.streams) == ([], 0)

    asyncio.run(run())


@pytest.mark.parametrize("metadata", [(), (("authorization", TOKEN),), (("authorization", f"Bearer {TOKEN}x"),), (("token", TOKEN),)])
def test_a_certificate_alone_is_not_enough(ours: MutualTls, metadata: tuple[tuple[str, str], ...]) -> None:
    identity = ours.identity()
    bare = grpc.ssl_channel_credentials(identity.authority, identity.key, identity.certificate)
    options = [("grpc.ssl_target_name_override", "drafthouse-data-plane")]

    async def status(address: str, given: tuple[tuple[str, str], ...]) -> grpc.StatusCode:
        async with grpc.aio.secure_channel(address, bare, options=options) as channel:
            call = rpc.VerifierStub(channel).Generate(to_request_proto(REQUEST), metadata=given, timeout=5)
            try:
                async for _ in call:
                    pass
            except grpc.aio.AioRpcError as error:
                return error.code()
            return grpc.StatusCode.OK

    async def run() -> None:
        async with listening(ours) as (verifier, _, address):
            assert await status(address, metadata) is grpc.StatusCode.UNAUTHENTICATED
            assert verifier.seen == []
            assert await status(address, (("authorization", f"Bearer {TOKEN}"),)) is grpc.StatusCode.OK

    asyncio.run(run())


def test_a_token_without_a_certificate_is_not_enough(ours: MutualTls) -> None:
    async def run() -> None:
        credentials = grpc.ssl_channel_credentials(OURS.certificate)
        options = [("grpc.ssl_target_name_override", "drafthouse-data-plane")]
        async with listening(ours) as (verifier, _, address), grpc.aio.secure_channel(address, credentials, options=options) as channel:
            call = rpc.VerifierStub(channel).Generate(
                to_request_proto(REQUEST), metadata=(("authorization", f"Bearer {TOKEN}"),), timeout=5
            )
            assert await call.code() is grpc.StatusCode.UNAVAILABLE
            assert verifier.seen == []

    asyncio.run(run())


def test_secrets_are_neither_logged_nor_in_errors(tmp_path: pathlib.Path, ours: MutualTls, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    leaf = OURS.issue()
    files = leaf.write(tmp_path / "stranger", token=WRONG_TOKEN)

    async def run() -> str:
        async with listening(ours) as (_, _, address):
            with pytest.raises(NoVerifierError) as caught:
                await generated(MutualTls(files), address)
            return str(caught.value)

    config = ServingConfig.model_validate({"security": {"data_plane": files}})
    told = asyncio.run(run()) + caplog.text + repr(ours.identity()) + config.model_dump_json()
    assert "token is missing or wrong" in told
    assert str(files.token_file) in told
    for secret in (TOKEN, WRONG_TOKEN, leaf.key.decode().splitlines()[1], ours.identity().key.decode().splitlines()[1]):
        assert secret not in told


def test_new_certificates_and_tokens_count_without_a_restart(tmp_path: pathlib.Path) -> None:
    """The authority is replaced in three steps, the token in two, while a link and a server stay up."""

    async def run() -> None:
        server_files, client_files = tmp_path / "server", tmp_path / "client"
        old, new = OURS.issue(), FOREIGN.issue()
        server, client = MutualTls(old.write(server_files)), MutualTls(old.write(client_files))
        both = OURS.certificate + FOREIGN.certificate
        old.authority = new.authority = both
        async with listening(server) as (verifier, _, address):
            link = VerifierLink(2.0, client)
            link.update((Route("a", address, "f", 0, 8),))
            assert tokens_of(await collect(link)) == text_of(REQUEST)
            old.write(server_files, token=f"{TOKEN}\n{WRONG_TOKEN}")
            old.write(client_files, token=WRONG_TOKEN)
            assert tokens_of(await collect(link)) == text_of(REQUEST)
            new.write(server_files, token=WRONG_TOKEN)
            new.authority = FOREIGN.certificate
            new.write(client_files, token=WRONG_TOKEN)
            assert tokens_of(await collect(link)) == text_of(REQUEST)
            new.write(server_files, token=WRONG_TOKEN)
            with pytest.raises(NoVerifierError):
                await generated(MutualTls(OURS.issue().write(tmp_path / "late", token=WRONG_TOKEN)), address)
            assert len(verifier.seen) == 3
            await link.close()

    asyncio.run(run())


def test_a_stream_outlives_the_certificate_it_began_with(tmp_path: pathlib.Path) -> None:
    async def run() -> None:
        transport = MutualTls(OURS.issue().write(tmp_path))
        async with listening(transport) as (verifier, _, address):
            reached, go_on = asyncio.Event(), asyncio.Event()

            async def before(index: int, context: object) -> None:
                if index and len(verifier.seen) == 1:
                    reached.set()
                    await go_on.wait()

            verifier.before = before
            link = VerifierLink(2.0, transport)
            link.update((Route("a", address, "f", 0, 8),))
            first = asyncio.create_task(collect(link))
            await reached.wait()
            OURS.issue().write(tmp_path)
            second = await collect(link)
            go_on.set()
            assert tokens_of(await first) == tokens_of(second) == text_of(REQUEST)
            assert len(verifier.seen) == 2
            await link.close()

    asyncio.run(run())


def test_without_the_section_the_data_plane_is_plain() -> None:
    assert load_transport(ServingConfig().security.data_plane) is PLAINTEXT
