"""Both servers over real gRPC on loopback, in one process: what replicas run, without Ray."""

import asyncio
import contextlib
import gc
import logging
from collections.abc import AsyncIterator

import grpc
import pytest

from drafthouse.errors import RequestError
from drafthouse.sampling import SamplingParams
from protos import dataplane_pb2 as pb
from protos import dataplane_pb2_grpc as rpc
from tests.engine.oracle import greedy, sampled
from tests.engine.pairs import prompts, request
from tests.engine.servers import collect, connect, run, start_drafter, start_routed, start_verifier, until
from tests.engine.tiny_models import tiny

SAMPLED = SamplingParams(temperature=0.8, top_p=0.95, repetition_penalty=1.1)


def test_two_drafters_serve_one_verifier_and_one_dies() -> None:
    async def test() -> None:
        first, first_route = await start_drafter(0.01, "first")
        second, second_route = await start_drafter(0.01, "second")
        verifier, stream = await start_verifier()
        verifier.set_drafters([first_route, second_route])
        await until(lambda: len(verifier.loop.engine.draft_sessions.drafters) == 2, "both drafters connected")
        texts = prompts(6)
        running = [
            asyncio.create_task(collect(stream, request(str(i), p, 120, mode="fixed", nodes=6, depth=3))) for i, p in enumerate(texts)
        ]
        await until(lambda: len(first.loop.engine.sessions) > 0 and len(second.loop.engine.sessions) > 0, "sessions on both")
        await until(lambda: verifier.loop.engine.totals.accepted > 5, "accepted drafts")
        await first.stop()
        oracle = tiny("llama")
        for i, task in enumerate(running):
            assert await task == greedy(oracle, texts[i], 120)
        assert verifier.loop.engine.draft_sessions.events.lost > 0
        await until(lambda: not second.loop.engine.sessions, "all sessions closed")
        await stream.close()
        await verifier.stop()
        await second.stop()

    run(test)


def test_one_drafter_serves_two_verifiers() -> None:
    async def test() -> None:
        drafter, route = await start_drafter(0.01, "drafter")
        verifiers = [await start_verifier() for _ in range(2)]
        for server, _ in verifiers:
            server.set_drafters([route])
            await until(lambda server=server: bool(server.loop.engine.draft_sessions.drafters), "connected")  # type: ignore[misc]
        texts = prompts(4)
        jobs = [collect(verifiers[i % 2][1], request(str(i), p, 40, SAMPLED, i, "fixed", 6, 3)) for i, p in enumerate(texts)]
        got = await asyncio.gather(*jobs)
        oracle = tiny("llama")
        for i, text in enumerate(texts):
            assert got[i] == sampled(oracle, text, SAMPLED, i, 40), f"prompt {i}"
        assert all(server.loop.engine.totals.accepted > 0 for server, _ in verifiers)
        for server, stream in verifiers:
            await stream.close()
            await server.stop()
        await drafter.stop()

    run(test)


def test_cancelling_frees_kv_and_session() -> None:
    async def test() -> None:
        drafter, route = await start_drafter(0.01, "drafter")
        verifier, stream = await start_verifier()
        verifier.set_drafters([route])
        engine = verifier.loop.engine
        await until(lambda: bool(engine.draft_sessions.drafters), "connected")
        call = stream.start(request("a", prompts(1)[0], 400))
        await call.read()
        await until(lambda: len(drafter.loop.engine.sessions) == 1, "a session")
        stream.leave(call)
        allocator = engine.scheduler.allocator
        await until(lambda: not engine.sequences and allocator.free_count == allocator.count, "KV freed")
        await until(lambda: not drafter.loop.engine.sessions, "session closed")
        await stream.close()
        await verifier.stop()
        await drafter.stop()

    run(test)


@pytest.mark.parametrize("method", ["/drafthouse.dataplane.v1.Drafter/Connect", "/drafthouse.dataplane.v1.Verifier/Connect"])
def test_bytes_that_are_no_message_end_their_stream_with_a_status_and_one_line(method: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def test() -> None:
        drafter, route = await start_drafter(0.01, "drafter")
        verifier, verifier_route = await start_routed("verifier")
        stream = await connect(verifier_route.address)
        verifier.set_drafters([route])
        await until(lambda: bool(verifier.loop.engine.draft_sessions.drafters), "connected")
        address = route.address if "Drafter" in method else verifier_route.address

        async def say() -> AsyncIterator[bytes]:
            yield b""
            yield b"\xff\xff\xff"
            await asyncio.Event().wait()

        async with grpc.aio.insecure_channel(address) as channel:
            call = channel.stream_stream(method, request_serializer=None, response_deserializer=None)(say())
            with contextlib.suppress(grpc.aio.AioRpcError):
                async for _ in call:  # a status comes behind what was said before
                    pass
            assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "it is no protobuf message drafthouse.dataplane.v1." in await call.details()
        warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert len(warnings) == 1
        assert "it is no protobuf message" in warnings[0].getMessage()
        assert await collect(stream, request("a", prompts(1)[0], 12)) == greedy(tiny("llama"), prompts(1)[0], 12), "others go on"
        await stream.close()
        await verifier.stop()
        await drafter.stop()

    run(test)
    gc.collect()  # a task whose error no one asks for complains when it goes
    assert not [record for record in caplog.records if record.exc_info]


def test_malformed_message_ends_its_session_only() -> None:
    """A raw client sends a broken Open beside a good one: Dropped for the first, a tree for the second."""

    async def test() -> None:
        drafter, route = await start_drafter(0.01, "drafter")
        sampling = pb.Sampling(temperature=0.0, top_p=1.0, repetition_penalty=1.0)
        rest = {"epoch": 1, "sampling": sampling, "noise_version": 1, "max_nodes": 8, "max_depth": 4, "vocab_size": 256}
        good = pb.Open(session_id="good", tokens=[1, 2, 3], **rest)
        bad = pb.Open(session_id="bad", tokens=[1, 999], **rest)
        late = pb.Commit(session_id="good", epoch=1, base_len=77, tokens=[5])
        channel = grpc.aio.insecure_channel(route.address)

        async def say() -> AsyncIterator[pb.ToDrafter]:
            yield pb.ToDrafter(verifier="raw", messages=[pb.DrafterMessage(open=bad), pb.DrafterMessage(), pb.DrafterMessage(open=good)])
            await asyncio.sleep(0.5)
            yield pb.ToDrafter(verifier="raw", messages=[pb.DrafterMessage(commit=late)])
            await asyncio.sleep(5)

        seen: dict[str, set[str]] = {"good": set(), "bad": set()}
        async for batch in rpc.DrafterStub(channel).Connect(say()):
            for message in batch.messages:
                kind = message.WhichOneof("kind")
                seen[getattr(message, kind).session_id].add(kind)
            if "dropped" in seen["good"]:
                break
        assert seen["bad"] == {"dropped"}
        assert seen["good"] == {"opened", "grow", "dropped"}
        await channel.close()
        await drafter.stop()

    run(test)


def test_an_unreadable_commit_ends_a_live_session(caplog: pytest.LogCaptureFixture) -> None:
    """Its KV slots and its place are free, since the verifier that hears of the end sends no Close; a session beside it goes on.
    The log shows of the sender's name what fits into a line."""

    async def test() -> None:
        drafter, route = await start_drafter(0.01, "drafter")
        engine, allocator = drafter.loop.engine, drafter.loop.engine.cache.allocator
        sampling = pb.Sampling(temperature=0.0, top_p=1.0, repetition_penalty=1.0)
        rest = {"epoch": 7, "sampling": sampling, "noise_version": 1, "max_nodes": 8, "max_depth": 4, "vocab_size": 256}
        opens = [pb.DrafterMessage(open=pb.Open(session_id=name, tokens=[1, 2, 3], **rest)) for name in "ab"]
        bad = [pb.DrafterMessage(commit=pb.Commit(session_id="a", epoch=epoch, base_len=3)) for epoch in (6, 7)]  # without tokens
        channel = grpc.aio.insecure_channel(route.address)
        call = rpc.DrafterStub(channel).Connect()  # type: ignore[no-untyped-call]
        await call.write(pb.ToDrafter(verifier="raw", messages=opens))
        await until(lambda: len(engine.sessions) == 2 and not engine.has_work(), "two whole trees")
        await call.write(pb.ToDrafter(verifier="raw\n" * 100_000, messages=bad[:1]))
        await until(lambda: drafter.malformed == 1, "an older epoch's")
        await call.write(pb.ToDrafter(verifier="raw", messages=bad[1:]))
        await until(lambda: [name for _, name in engine.sessions] == ["b"], "one session")
        await call.write(pb.ToDrafter(verifier="raw", messages=[pb.DrafterMessage(close=pb.Close(session_id="b", epoch=7))]))
        await until(lambda: not engine.sessions, "no session")
        assert (allocator.free_count, engine.totals.dropped, drafter.malformed) == (allocator.count, 1, 2)
        dropped = []
        while len(dropped) < 2:
            dropped += [m.dropped for m in (await call.read()).messages if m.WhichOneof("kind") == "dropped"]
        assert [(m.session_id, m.epoch) for m in dropped] == [("a", 6), ("a", 7)]
        assert all(m.reason == "malformed: commit.tokens is empty" for m in dropped)
        told = [record.getMessage() for record in caplog.records if "malformed" in record.getMessage()]
        assert len(told) == 2
        assert all(len(line) < 1000 and "\n" not in line for line in told)
        call.cancel()
        await channel.close()
        await drafter.stop()

    run(test)


def test_refused_requests_name_the_fault() -> None:
    async def test() -> None:
        verifier, stream = await start_verifier()
        for bad, words in (
            (request("a", [1, 2], 600), "600"),
            (request("b", [1, 900], 5), "vocabulary"),
            (request("c", [], 5), "empty"),
        ):
            with pytest.raises(RequestError, match=words):
                await collect(stream, bad)
        await stream.close()
        await verifier.stop()

    run(test)
