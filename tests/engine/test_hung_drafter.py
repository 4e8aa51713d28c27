"""A drafter whose device does not come back: told by the time that its pass takes, not by an alarm on a drafter that idles."""

import asyncio
import threading

import grpc
import pytest

import drafter.server
import drafthouse.policy.stall
from drafthouse.config.serving import DrafterConfig
from drafthouse.engine.model_runner import RunResult
from drafthouse.engine.segment import Segment
from protos import dataplane_pb2_grpc as rpc
from tests.engine.oracle import greedy
from tests.engine.pairs import prompts, request
from tests.engine.servers import collect, run, start_drafter, start_verifier, until
from tests.engine.test_failed_messages import Peer
from tests.engine.tiny_models import tiny

LIMIT_S = 0.5


def test_a_pass_that_does_not_come_back_ends_the_streams() -> None:
    async def test() -> None:
        server, route = await start_drafter(0.01, "drafter", DrafterConfig(pass_limit_s=LIMIT_S))
        verifier, stream = await start_verifier()
        assert server.loop.engine.draft is not None
        runner, comes_back = server.loop.engine.draft.runner, threading.Event()
        whole = runner.run

        def hanging(segments: list[Segment]) -> RunResult:
            comes_back.wait(60)
            return whole(segments)

        async with grpc.aio.insecure_channel(route.address) as own:
            idle = Peer(rpc.DrafterStub(own))  # type: ignore[no-untyped-call]
            idle.probe()
            await until(lambda: idle.echoes == 1, "connected")
            await asyncio.sleep(2 * LIMIT_S)
            assert server.loop.trouble == "", "it idles"
            idle.probe()  # who says nothing for five beats would be left
            verifier.set_drafters([route])
            await until(lambda: bool(verifier.loop.engine.draft_sessions.drafters), "connected")
            idle.probe()
            text = prompts(1)[0]
            runner.run = hanging  # type: ignore[method-assign]
            running = asyncio.create_task(collect(stream, request("a", text, 100, mode="fixed", nodes=6, depth=3)))
            await until(lambda: bool(server.loop.trouble), "it takes too long")
            assert server.loop.trouble == "a draft pass takes longer than 0.5 s (drafter.pass_limit_s)"
            assert not server.takes_sessions, "the controller is told so"
            idle.probe()
            with pytest.raises(grpc.aio.AioRpcError):
                await idle.task
            assert (await idle.call.code(), await idle.call.details()) == (grpc.StatusCode.UNAVAILABLE, server.loop.trouble)
            assert await running == greedy(tiny("llama"), text, 100)
            comes_back.set()
            await until(lambda: server.takes_sessions, "the device is back")
        await stream.close()
        await verifier.stop()
        await server.stop()

    run(test)


@pytest.fixture
def fast_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (drafthouse.policy.stall, drafter.server):
        monkeypatch.setattr(module, "LOOK_S", 0.02)
    monkeypatch.setattr(drafthouse.policy.stall, "STALL_S", 0.4)


@pytest.mark.usefixtures("fast_looks")
def test_a_drafter_whose_device_stalls_is_left_until_it_comes_back() -> None:
    async def test() -> None:
        hung, route = await start_drafter(0.01, "drafter")
        verifier, stream = await start_verifier()
        assert hung.loop.engine.draft is not None
        runner, comes_back = hung.loop.engine.draft.runner, threading.Event()
        whole = runner.run

        def hanging(segments: list[Segment]) -> RunResult:
            comes_back.wait(60)
            return whole(segments)

        verifier.set_drafters([route])
        sessions = verifier.loop.engine.draft_sessions
        await until(lambda: bool(sessions.drafters), "connected")
        text = prompts(1)[0]
        runner.run = hanging  # type: ignore[method-assign]
        running = asyncio.create_task(collect(stream, request("a", text, 100, mode="fixed", nodes=6, depth=3)))
        await until(lambda: not sessions.drafters, "its stream has ended")
        assert await running == greedy(tiny("llama"), text, 100)
        assert hung.takes_sessions, "it may come back: no reason to replace it"
        assert not sessions.drafters, "dialled again, it takes no stream"
        comes_back.set()
        await until(lambda: bool(sessions.drafters), "the device is back")
        accepted = verifier.loop.engine.totals.accepted
        assert await collect(stream, request("b", text, 100, mode="fixed", nodes=6, depth=3)) == greedy(tiny("llama"), text, 100)
        assert verifier.loop.engine.totals.accepted > accepted, "it drafts again"
        await stream.close()
        await verifier.stop()
        await hung.stop()

    run(test)
