"""The replicas' own servers under mutual TLS and a token: gateway to verifier to drafter, and nobody else."""

import asyncio
import pathlib

import grpc
import pytest

from deployments.gateway.verifier_link import VerifierLink
from drafter.engine import DrafterEngine
from drafter.server import DrafterServer
from drafthouse.config.serving import DrafterConfig, TreeConfig, VerifierConfig
from drafthouse.wire.membership import Route
from drafthouse.wire.transport import PLAINTEXT, MutualTls
from protos import dataplane_pb2 as pb
from protos import dataplane_pb2_grpc as rpc
from tests.engine.oracle import greedy
from tests.engine.pairs import FAST, FLAT, loaded, noisy_copy, prompts, request
from tests.engine.tiny_models import tiny
from tests.unit.certificates import Authority
from verifier.engine import VerifierEngine
from verifier.server import VerifierServer

HOST = "127.0.0.1"


def test_speculation_works_over_tls_and_plaintext_is_refused_by_both(tmp_path: pathlib.Path) -> None:
    authority = Authority("ours")
    ours = [MutualTls(authority.issue().write(tmp_path / role)) for role in ("gateway", "verifier", "drafter")]

    async def test() -> None:
        drafting = DrafterEngine(loaded(noisy_copy("llama", 0, 0.01)), FAST, DrafterConfig(), TreeConfig())
        drafter = DrafterServer(drafting, "drafter", ours[2])
        verifier = VerifierServer(VerifierEngine(loaded(tiny("llama")), FLAT, VerifierConfig(), TreeConfig()), "verifier", ours[1])
        ports = [await drafter.start(HOST, 0), await verifier.start(HOST, 0)]
        link = VerifierLink(10.0, ours[0])
        link.update((Route("verifier", f"{HOST}:{ports[1]}", "", 0, 64),))
        verifier.set_drafters([Route("drafter", f"{HOST}:{ports[0]}", "", 0, 64)])
        while not verifier.loop.engine.draft_sessions.drafters:
            await asyncio.sleep(0.01)
        (prompt,) = prompts(1)
        asked = request("r", prompt, 60, mode="fixed", nodes=6, depth=3)
        tokens = [token async for replies in link.generate(asked) for reply in replies for token in reply.tokens]
        assert tokens == greedy(tiny("llama"), prompt, 60)
        assert verifier.loop.engine.totals.accepted > 0
        await link.close()
        await refused(f"{HOST}:{ports[0]}", lambda channel: rpc.DrafterStub(channel).Connect(iter([pb.ToDrafter()])))
        await refused(f"{HOST}:{ports[1]}", lambda channel: rpc.VerifierStub(channel).Connect(iter([pb.FromGateway()])))
        await verifier.stop()
        await drafter.stop()

    asyncio.run(asyncio.wait_for(test(), 60))


async def refused(address, call) -> None:
    async with PLAINTEXT.channel(address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in call(channel):
                pass
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
