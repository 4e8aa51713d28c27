"""Peers that keep their connection and say nothing, as a stopped process does, over real gRPC; a beat is 20 ms here."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

import deployments.gateway.verifier_stream
import drafthouse.wire.silence
import verifier.drafter_client
import verifier.server
from drafthouse.config.serving import VerifierConfig
from drafthouse.wire.generation_messages import to_request_proto
from drafthouse.wire.silence import SILENT_BEATS
from protos import dataplane_pb2 as pb
from protos import dataplane_pb2_grpc as rpc
from tests.engine.oracle import greedy
from tests.engine.pairs import prompts, request
from tests.engine.servers import RawDrafter, collect, run, start_drafter, start_routed, start_verifier, until
from tests.engine.tiny_models import tiny

BEAT_S = 0.02


@pytest.fixture(autouse=True)
def fast_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (drafthouse.wire.silence, verifier.drafter_client, verifier.server, deployments.gateway.verifier_stream):
        monkeypatch.setattr(module, "BEAT_S", BEAT_S)


def test_a_mute_drafter_is_left_and_another_takes_its_sessions() -> None:
    async def test() -> None:
        mute = RawDrafter()
        good, good_route = await start_drafter(0.01, "good")
        server, stream = await start_verifier()
        engine = server.loop.engine
        mute_route = await mute.start()
        server.set_drafters([mute_route])
        await until(lambda: engine.draft_sessions.drafters == ["raw"], "connected")
        texts = prompts(3)
        jobs = [collect(stream, request(str(i), p, 60, mode="fixed", nodes=6, depth=3)) for i, p in enumerate(texts)]
        running = [asyncio.create_task(job) for job in jobs]
        await until(lambda: len(mute.messages("open")) == 3, "sessions on the one that will fall silent")
        server.set_drafters([mute_route, good_route])
        await until(lambda: "good" in engine.draft_sessions.drafters, "another is there")
        mute.mute = True
        await until(lambda: engine.draft_sessions.events.lost == 3, "its silence is noticed")
        await until(lambda: len(good.loop.engine.sessions) == 3, "all on the other")
        assert min(s.epoch for s in good.loop.engine.sessions.values()) > max(m.epoch for m in mute.messages("open"))
        oracle = tiny("llama")
        for i, task in enumerate(running):
            assert await task == greedy(oracle, texts[i], 60)
        await stream.close()
        await server.stop()
        await good.stop()
        await mute.server.stop(grace=0)

    run(test)


def test_a_drafter_that_has_nothing_to_say_is_not_left() -> None:
    async def test() -> None:
        idle = RawDrafter()
        server, stream = await start_verifier()
        server.set_drafters([await idle.start()])
        await until(lambda: bool(server.loop.engine.draft_sessions.drafters), "connected")
        before = len(idle.heard)
        await until(lambda: len(idle.heard) > before + 4 * SILENT_BEATS, "many beats")
        assert server.loop.engine.draft_sessions.drafters == ["raw"]
        assert len({batch.verifier for batch in idle.heard}) == 1
        assert sum(bool(batch.echo_us) for batch in idle.heard) > 4 * SILENT_BEATS, "each beat measures the round trip"
        await stream.close()
        await server.stop()
        await idle.server.stop(grace=0)

    run(test)


@pytest.mark.parametrize("beats", [True, False])
def test_a_verifier_that_falls_silent_loses_its_sessions(beats: bool) -> None:
    async def test() -> None:
        drafter, route = await start_drafter(0.01, "drafter")
        channel = grpc.aio.insecure_channel(route.address)
        sampling = pb.Sampling(temperature=0.0, top_p=1.0, repetition_penalty=1.0)
        opened = pb.Open(
            session_id="a", epoch=1, tokens=[1, 2, 3], sampling=sampling, noise_version=1, max_nodes=8, max_depth=4, vocab_size=256
        )
        told = 0

        async def say() -> AsyncIterator[pb.ToDrafter]:
            nonlocal told
            yield pb.ToDrafter(verifier="raw", messages=[pb.DrafterMessage(open=opened)])
            while beats and told < 4 * SILENT_BEATS:
                await asyncio.sleep(BEAT_S)
                yield pb.ToDrafter(verifier="raw", echo_us=1)
                told += 1
            await asyncio.Event().wait()

        call = rpc.DrafterStub(channel).Connect(say())  # type: ignore[no-untyped-call]
        await until(lambda: len(drafter.loop.engine.sessions) == 1, "a session")
        await until(lambda: not drafter.loop.engine.sessions, "the session is freed")
        assert told == (4 * SILENT_BEATS if beats else 0), "not before it fell silent"
        call.cancel()
        await channel.close()
        await drafter.stop()

    run(test)


def test_a_stream_says_every_beat_that_the_verifier_lives() -> None:
    """With a request that waits in the queue, one that waits for a drafter that says nothing, and none."""

    async def test() -> None:
        idle = RawDrafter()
        server, stream = await start_verifier(VerifierConfig(max_sequences=1))
        server.set_drafters([await idle.start()])
        await until(lambda: bool(server.loop.engine.draft_sessions.drafters), "connected")
        runs = stream.start(request("runs", [1, 2], 400, mode="fixed"))
        await runs.read()
        waits = stream.start(request("waits", [1, 2], 400, delivered=(5, 6, 7)))
        await asyncio.sleep(4 * SILENT_BEATS * BEAT_S)
        assert stream.alive
        stream.leave(runs)
        stream.leave(waits)
        await asyncio.sleep(4 * SILENT_BEATS * BEAT_S)
        assert stream.alive
        await stream.close()
        await server.stop()
        await idle.server.stop(grace=0)

    run(test)


@pytest.mark.parametrize("beats", [True, False])
def test_a_gateway_that_falls_silent_loses_its_requests(beats: bool) -> None:
    async def test() -> None:
        server, route = await start_routed("verifier", VerifierConfig(max_sequences=1))
        drafter = RawDrafter()  # says nothing, so that the request lasts
        server.set_drafters([await drafter.start()])
        await until(lambda: bool(server.loop.engine.draft_sessions.drafters), "connected")
        channel, told = grpc.aio.insecure_channel(route.address), 0

        async def say() -> AsyncIterator[pb.FromGateway]:
            nonlocal told
            yield pb.FromGateway(starts=[to_request_proto(request("a", [1, 2], 400, mode="fixed"))])
            while beats and told < 4 * SILENT_BEATS:
                await asyncio.sleep(BEAT_S)
                yield pb.FromGateway()
                told += 1
            await asyncio.Event().wait()

        call = rpc.VerifierStub(channel).Connect(say())  # type: ignore[no-untyped-call]
        await until(lambda: len(server.loop.engine.sequences) == 1, "it runs")
        await until(lambda: not server.loop.engine.sequences, "it is freed")
        assert told == (4 * SILENT_BEATS if beats else 0), "not before it fell silent"
        call.cancel()
        await channel.close()
        await server.stop()
        await drafter.server.stop(grace=0)

    run(test)
