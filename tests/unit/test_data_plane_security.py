"""Mutual TLS and the shared token on real gRPC servers: who is let in, who is not, and that secrets stay secret."""

import asyncio
import logging
import pathlib

import grpc
import pytest

from deployments.gateway.verifier_link import NoVerifierError
from drafthouse.config.serving import ServingConfig
from drafthouse.wire.settings import VERIFIER_METADATA
from drafthouse.wire.transport import PLAINTEXT, MutualTls, Transport, load_transport
from protos import dataplane_pb2 as pb
from protos import dataplane_pb2_grpc as rpc
from tests.unit.certificates import TOKEN, Authority
from tests.unit.secured_peers import drafter_events, generated, listening
from tests.unit.test_verifier_link import REQUEST
from tests.unit.verifier_double import text_of

OURS, FOREIGN, IMPOSTOR = Authority("ours"), Authority("foreign"), Authority("ours")
WRONG_TOKEN = "another-token-of-twenty-characters"


@pytest.fixture
def ours(tmp_path: pathlib.Path) -> MutualTls:
    return MutualTls(OURS.issue().write(tmp_path / "ours"))


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
            call = rpc.VerifierStub(channel).Connect(iter([pb.FromGateway()]), metadata=given, timeout=5)
            if VERIFIER_METADATA in await call.initial_metadata():
                call.cancel()
                return grpc.StatusCode.OK
            return await call.code()

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
            call = rpc.VerifierStub(channel).Connect(iter([pb.FromGateway()]), metadata=(("authorization", f"Bearer {TOKEN}"),), timeout=5)
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


def test_without_the_section_the_data_plane_is_plain() -> None:
    assert load_transport(ServingConfig().security.data_plane) is PLAINTEXT
