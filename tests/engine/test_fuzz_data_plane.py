"""Mutated messages to both data planes over real gRPC, in one process: nothing hangs, nothing stays, and both go on as before."""

import pytest

from drafthouse.wire.transport import PLAINTEXT
from tests.engine.oracle import greedy
from tests.engine.pairs import prompts, request
from tests.engine.servers import collect, run, start_drafter, start_routed, until
from tests.engine.servers import connect as connect_to
from tests.engine.tiny_models import tiny
from tests.fuzz.findings import Findings
from tests.fuzz.grpc_ports import DataPlanePort
from tests.fuzz.run import fuzz_port
from tests.fuzz.seeds import from_gateways, from_verifiers

INPUTS = 160
IN_FLIGHT = 4


async def fuzzed(service: str, address: str, seeds: list, seed: int) -> Findings:
    findings, channel = Findings(), PLAINTEXT.channel(address)
    await fuzz_port(DataPlanePort(service, channel, seeds, seed), INPUTS, IN_FLIGHT, findings, lambda: None)
    await channel.close()
    return findings


@pytest.mark.parametrize("seed", [0, 1])
def test_both_roles_outlive_mutated_messages_and_hold_nothing(seed: int) -> None:
    async def test() -> None:
        drafter, drafter_route = await start_drafter(0.01, "drafter")
        verifier, route = await start_routed("verifier")
        verifier.set_drafters([drafter_route])
        engine = verifier.loop.engine
        await until(lambda: bool(engine.draft_sessions.drafters), "connected")
        for service, address, seeds in (
            ("Verifier", route.address, from_gateways()), ("Drafter", drafter_route.address, from_verifiers(256)),
        ):  # fmt: skip
            findings = await fuzzed(service, address, seeds, seed)
            assert findings.kept == []
            assert findings.inputs() == INPUTS
        sessions, slots = drafter.loop.engine.sessions, engine.scheduler.allocator
        await until(lambda: not engine.sequences and slots.free_count == slots.count and not sessions, "nothing held")
        assert (verifier.loop.faults, drafter.loop.faults) == (0, 0)
        stream = await connect_to(route.address)
        text = prompts(1)[0]
        assert await collect(stream, request("after", text, 30)) == greedy(tiny("llama"), text, 30)
        await stream.close()
        await verifier.stop()
        await drafter.stop()

    run(test)
