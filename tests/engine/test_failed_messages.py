"""A message that makes a drafter's engine raise ends its session, a drafting thread that dies ends all streams; over real gRPC."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from drafter.engine import Outgoing
from drafter.server import DrafterServer
from drafter.stage_credit import Label
from drafthouse.wire.session_messages import session_of
from protos import dataplane_pb2 as pb
from protos import dataplane_pb2_grpc as rpc
from tests.engine.oracle import greedy
from tests.engine.pairs import prompts, request
from tests.engine.servers import collect, run, start_drafter, start_verifier, until
from tests.engine.tiny_models import tiny

SAMPLING = pb.Sampling(temperature=0.0, top_p=1.0, repetition_penalty=1.0)


def opened(session: str) -> pb.DrafterMessage:
    tokens = [1, 2, 3]
    return pb.DrafterMessage(
        open=pb.Open(
            session_id=session, epoch=1, tokens=tokens, sampling=SAMPLING, noise_version=1, max_nodes=8, max_depth=4, vocab_size=256
        )
    )


def committed(session: str) -> pb.DrafterMessage:
    return pb.DrafterMessage(commit=pb.Commit(session_id=session, epoch=1, base_len=3, tokens=[4]))


class Peer:
    """A verifier that says only what a test gives it, and what it heard."""

    def __init__(self, stub: rpc.DrafterStub):
        self._say: asyncio.Queue[pb.ToDrafter] = asyncio.Queue()
        self.heard: list[tuple[str, str]] = []  # kind and session
        self.echoes = 0
        self.call = stub.Connect(self._outgoing())  # type: ignore[no-untyped-call]
        self.task = asyncio.create_task(self._listen())

    async def _outgoing(self) -> AsyncIterator[pb.ToDrafter]:
        while True:
            yield await self._say.get()

    def say(self, *messages: pb.DrafterMessage) -> None:
        self._say.put_nowait(pb.ToDrafter(verifier="raw", messages=messages))

    def probe(self) -> None:
        self._say.put_nowait(pb.ToDrafter(verifier="raw", echo_us=1))

    async def _listen(self) -> None:
        async for batch in self.call:
            self.echoes += bool(batch.echo_us)
            for message in batch.messages:
                named = session_of(message)
                assert named is not None
                self.heard.append((message.WhichOneof("kind"), named[0]))


def break_commits(drafter: DrafterServer, session: str) -> None:
    """From now on each commit of this session raises when its KV and its tree have moved, as on a device that gets lost."""
    broken = next(s for key, s in drafter.loop.engine.sessions.items() if key[1] == session)
    commit = broken.commit

    def lost(base_len: int, tokens: tuple[int, ...], min_confidence: float, now: float) -> list[Label]:
        commit(base_len, tokens, min_confidence, now)
        raise RuntimeError("device lost")

    broken.commit = lost  # type: ignore[method-assign]


def test_a_message_that_raises_drops_its_session_with_a_word_and_no_other() -> None:
    async def test() -> None:
        drafter, route = await start_drafter(0.01, "drafter")
        engine = drafter.loop.engine
        async with grpc.aio.insecure_channel(route.address) as channel:
            peer = Peer(rpc.DrafterStub(channel))  # type: ignore[no-untyped-call]
            peer.say(opened("good"), opened("bad"), opened("late"))
            await until(lambda: len(engine.sessions) == 3 and not engine.has_work(), "three sessions with trees")
            break_commits(drafter, "bad")
            peer.say(committed("good"), committed("bad"), committed("late"))
            await until(lambda: ("dropped", "bad") in peer.heard, "its verifier hears it")
            assert [session for kind, session in peer.heard if kind == "dropped"] == ["bad"]
            assert {key[1]: len(s.tokens) for key, s in engine.sessions.items()} == {"good": 4, "late": 4}, "what stood behind it is done"
            assert (drafter.loop.faults, engine.totals.dropped, drafter.takes_sessions) == (1, 1, True)
            peer.say(
                pb.DrafterMessage(close=pb.Close(session_id="good", epoch=1)), pb.DrafterMessage(close=pb.Close(session_id="late", epoch=1))
            )
            await until(lambda: not engine.sessions, "all closed")
            allocator = engine.cache.allocator
            assert (allocator.free_count, engine.admission.reserved_slots) == (allocator.count, 0), "KV slots leaked"
            peer.call.cancel()
            await asyncio.gather(peer.task, return_exceptions=True)
        await drafter.stop()

    run(test)


def test_a_request_whose_session_was_dropped_so_gets_its_text() -> None:
    async def test() -> None:
        drafter, route = await start_drafter(0.01, "drafter")
        verifier, stream = await start_verifier()
        verifier.set_drafters([route])
        draft_sessions = verifier.loop.engine.draft_sessions
        await until(lambda: bool(draft_sessions.drafters), "connected")
        texts = prompts(3)
        running = [
            asyncio.create_task(collect(stream, request(str(i), p, 120, mode="fixed", nodes=6, depth=3))) for i, p in enumerate(texts)
        ]
        await until(lambda: len(drafter.loop.engine.sessions) == 3 and verifier.loop.engine.totals.accepted > 5, "all have drafts")
        break_commits(drafter, next(iter(drafter.loop.engine.sessions))[1])
        oracle = tiny("llama")
        for task, text in zip(running, texts, strict=True):
            assert await task == greedy(oracle, text, 120)
        assert (draft_sessions.events.dropped, draft_sessions.events.lost, drafter.loop.faults) == (1, 0, 1)
        await stream.close()
        await verifier.stop()
        await drafter.stop()

    run(test)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_streams_of_a_drafter_whose_thread_is_dead_end_at_once() -> None:
    async def test() -> None:
        drafter, route = await start_drafter(0.01, "drafter")
        verifier, stream = await start_verifier()
        verifier.set_drafters([route])
        draft_sessions = verifier.loop.engine.draft_sessions
        async with grpc.aio.insecure_channel(route.address) as own:
            idle = Peer(rpc.DrafterStub(own))  # type: ignore[no-untyped-call]
            idle.probe()
            await until(lambda: bool(draft_sessions.drafters) and idle.echoes == 1, "both connected")
            text = prompts(1)[0]
            running = asyncio.create_task(collect(stream, request("a", text, 200, mode="fixed", nodes=6, depth=3)))
            await until(lambda: verifier.loop.engine.totals.accepted > 5, "it has drafts")

            def broken(reason: str = "") -> list[Outgoing]:
                raise RuntimeError("device lost")

            drafter.loop.engine.run_pass = drafter.loop.engine.recover = broken  # type: ignore[method-assign]
            await until(lambda: draft_sessions.events.lost == 1, "its verifier has given it up")
            with pytest.raises(grpc.aio.AioRpcError):
                await idle.task
            assert (await idle.call.code(), await idle.call.details()) == (grpc.StatusCode.UNAVAILABLE, "the drafting thread has died")
            assert await running == greedy(tiny("llama"), text, 200)
            again = Peer(rpc.DrafterStub(own))  # type: ignore[no-untyped-call]
            with pytest.raises(grpc.aio.AioRpcError):
                await again.task
            assert await again.call.code() == grpc.StatusCode.UNAVAILABLE
            assert not drafter.takes_sessions
        await stream.close()
        await verifier.stop()
        await drafter.stop()

    run(test)
