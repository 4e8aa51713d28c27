"""Certificates, authorities and tokens are replaced while servers and streams stay up."""

import asyncio
import pathlib

import pytest

from deployments.gateway.verifier_link import NoVerifierError, VerifierLink
from drafthouse.wire.membership import Route
from drafthouse.wire.transport import MutualTls
from tests.unit.certificates import TOKEN, Authority
from tests.unit.secured_peers import generated, listening
from tests.unit.test_verifier_link import REQUEST, collect, tokens_of
from tests.unit.verifier_double import text_of

OURS, FOREIGN = Authority("ours"), Authority("foreign")
SECOND_TOKEN = "another-token-of-twenty-characters"


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
            old.write(server_files, token=f"{TOKEN}\n{SECOND_TOKEN}")
            old.write(client_files, token=SECOND_TOKEN)
            assert tokens_of(await collect(link)) == text_of(REQUEST)
            new.write(server_files, token=SECOND_TOKEN)
            new.authority = FOREIGN.certificate
            new.write(client_files, token=SECOND_TOKEN)
            assert tokens_of(await collect(link)) == text_of(REQUEST)
            new.write(server_files, token=SECOND_TOKEN)
            with pytest.raises(NoVerifierError):
                await generated(MutualTls(OURS.issue().write(tmp_path / "late", token=SECOND_TOKEN)), address)
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
