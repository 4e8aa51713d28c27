"""Overload and cancellation over real gRPC: gateway's link, verifier, drafter. Each refusal says when to come again, and whoever
goes away takes everything with him, in every hop."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

import grpc
import pytest

from deployments.gateway.request_progress import Refused
from deployments.gateway.verifier_link import VerifierLink
from deployments.gateway.verifier_stream import VerifierStream
from drafter.server import DrafterServer
from drafthouse.config.serving import TreeConfig, VerifierConfig
from drafthouse.errors import OverloadError
from drafthouse.wire.generation_messages import GenerateRequest, to_request_proto
from drafthouse.wire.membership import Route
from drafthouse.wire.settings import VERIFIER_METADATA
from protos import dataplane_pb2 as pb
from protos import dataplane_pb2_grpc as rpc
from tests.engine.oracle import greedy
from tests.engine.pairs import FLAT, loaded, prompts, request
from tests.engine.servers import HOST, RawDrafter, collect, connect, replies_of, run, start_drafter, until
from tests.engine.tiny_models import tiny
from verifier import gateway_stream
from verifier.engine import VerifierEngine
from verifier.server import VerifierServer


@dataclass
class Pools:
    verifier: VerifierServer
    drafter: DrafterServer
    stream: VerifierStream
    link: VerifierLink
    address: str

    @property
    def engine(self) -> VerifierEngine:
        return self.verifier.loop.engine

    def empty(self) -> bool:
        """No KV slot, session, stream or place in the queue is in use."""
        verifier, drafter = self.engine.scheduler, self.drafter.loop.engine
        allocators = (verifier.allocator, drafter.cache.allocator)
        held = (self.engine.sequences, verifier.running, verifier.waiting, drafter.sessions, self.verifier._requests, self.link.running)
        return not any(held) and all(a.free_count == a.count for a in allocators)


@asynccontextmanager
async def pools(config: VerifierConfig) -> AsyncGenerator[Pools, None]:
    drafter, route = await start_drafter(0.01, "drafter")
    verifier = VerifierServer(VerifierEngine(loaded(tiny("llama")), FLAT, config, TreeConfig()), "verifier")
    address = f"{HOST}:{await verifier.start(HOST, 0)}"
    stream = await connect(address)
    verifier.set_drafters([route])
    await until(lambda: bool(verifier.loop.engine.draft_sessions.drafters), "connected")
    link = VerifierLink(10.0)
    link.update((Route("verifier", address, "f", 0, 8),))
    try:
        yield Pools(verifier, drafter, stream, link, address)
    finally:
        await link.close()
        await stream.close()
        await verifier.stop()
        await drafter.stop()


async def text(link: VerifierLink, r: GenerateRequest) -> list[int]:
    async with aclosing(link.generate(r)) as replies:
        return [token async for arrived in replies for reply in arrived for token in reply.tokens]


def test_more_than_the_queue_holds_are_refused_with_a_time_and_the_others_are_unharmed() -> None:
    async def test() -> None:
        async with pools(VerifierConfig(max_sequences=3, max_queue=3)) as it:
            texts = prompts(24)
            running = asyncio.create_task(collect(it.stream, request("running", texts[0], 150)))
            await until(lambda: bool(it.engine.scheduler.running), "a stream in progress")
            flood = [text(it.link, request(str(i), p, 12, mode="fixed" if i % 2 else "auto")) for i, p in enumerate(texts)]
            got = await asyncio.gather(*flood, return_exceptions=True)
            oracle = tiny("llama")
            refused = [each for each in got if isinstance(each, OverloadError)]
            assert len(refused) > 10
            assert all(each.retry_after_s > 0 for each in refused)
            assert len({each.retry_after_s for each in refused}) > 5, "they are not all to come back at once"
            for i, each in enumerate(got):
                assert isinstance(each, OverloadError) or each == greedy(oracle, texts[i], 12)
            assert await running == greedy(oracle, texts[0], 150)
            assert (it.engine.totals.refused, it.engine.totals.finished) == (len(refused), 25 - len(refused))
            await until(it.empty, "everything is free")

    run(test)


def test_a_refusal_says_when_to_come_again() -> None:
    async def test() -> None:
        async with pools(VerifierConfig(max_sequences=1, max_queue=0)) as it:
            drafter = RawDrafter()  # says nothing, so that the one that runs stays
            it.verifier.set_drafters([await drafter.start()])
            await until(lambda: it.engine.draft_sessions.drafters == ["raw"], "connected")
            call = it.stream.start(request("a", [1, 2], 400, mode="fixed"))
            await call.read()
            with pytest.raises(Refused) as caught:
                await collect(it.stream, request("b", [1, 2], 5))
            assert caught.value.retry_after_s == pytest.approx(1.0, abs=0.9)
            it.stream.leave(call)
            await drafter.server.stop(grace=0)

    run(test)


@pytest.mark.parametrize("how", ["cancel", "stream lost"])
@pytest.mark.parametrize("phase", ["waiting", "decoding"])
def test_a_request_that_is_cancelled_frees_everything_without_another_step(how: str, phase: str) -> None:
    """The one that decodes waits half a second a token for a drafter that says nothing: freed sooner, it did not wait for a step."""

    async def test() -> None:
        async with pools(VerifierConfig(max_sequences=1)) as it:
            drafter, other = RawDrafter(), await connect(it.address)
            it.verifier.set_drafters([await drafter.start()])
            await until(lambda: it.engine.draft_sessions.drafters == ["raw"], "connected")
            first = it.stream.start(request("first", [1, 2], 400, mode="fixed"))
            await first.read()
            if phase == "decoding":
                it.stream.leave(first)
                await until(lambda: not it.engine.sequences, "free for another")
            cut = other.start(request("a", [1, 2, 3], 400, mode="fixed"))
            await until(lambda: "a" in it.engine.sequences, "it is there")
            if how == "cancel":
                other.leave(cut)
            else:
                await other.close()
            await until(lambda: "a" not in it.engine.sequences, "freed", seconds=5)
            assert it.engine.admission.most_steps_to_free <= 1
            await until(lambda: "a" in {m.session_id for m in drafter.messages("close")}, "its session is closed", seconds=5)
            assert ("first" in it.engine.sequences) == (phase == "waiting"), "requests of other streams stay"
            it.stream.leave(first)
            await until(it.empty, "everything is free")
            await other.close()
            await drafter.server.stop(grace=0)

    run(test)


@pytest.mark.parametrize("how", ["generator closed", "task cancelled"])
def test_a_client_of_the_gateway_that_goes_away_frees_slots_and_sessions_everywhere(how: str) -> None:
    """At many points, from before the first token to the middle of the text."""

    async def test() -> None:
        async with pools(VerifierConfig(max_sequences=3, step_tokens=16)) as it:
            for replies_read in (0, 0, 1, 3, 8):
                names = [f"{replies_read}-{i}" for i in range(6)]

                async def one(name: str, replies_read: int = replies_read) -> None:
                    long = prompts(1, shortest=120, longest=120, seed=replies_read)[0]
                    async with aclosing(it.link.generate(request(name, long, 300))) as replies:
                        for _ in range(replies_read):
                            await anext(replies)
                        if how == "task cancelled" or not replies_read:
                            await asyncio.Event().wait() if replies_read else await anext(replies)

                tasks = [asyncio.create_task(one(name)) for name in names]
                await until(lambda: len(it.engine.scheduler.running) == 3, "they run")
                if how == "generator closed" and replies_read:
                    await asyncio.gather(*tasks)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await until(it.empty, "everything is free")
            assert it.engine.totals.cancelled > 5
            assert it.engine.admission.most_steps_to_free <= 1
            it.drafter.loop.engine.cache.allocator.check_integrity()
            it.engine.scheduler.allocator.check_integrity()

    run(test)


def test_a_command_that_fails_ends_neither_the_thread_nor_a_request_without_an_answer() -> None:
    async def test() -> None:
        async with pools(VerifierConfig()) as it:
            it.verifier.loop.post(lambda engine: 1 // 0)  # type: ignore[arg-type, return-value]
            prompt = prompts(1)[0]
            assert await collect(it.stream, request("a", prompt, 8)) == greedy(tiny("llama"), prompt, 8)
            assert it.verifier.loop.faults == 1

            def broken(sequence: object, now: float) -> None:
                raise MemoryError("no room for its state")

            it.engine.session_policy.arrived = broken  # type: ignore[method-assign]
            last = (await replies_of(it.stream, request("b", prompt, 8)))[-1]
            assert (last.finish_reason, last.error) == ("error", "MemoryError: no room for its state")
            await until(lambda: it.verifier.loop.faults == 2, "the fault is counted")  # the reply is under way before the count
            assert it.verifier.loop.trouble == ""
            await until(it.empty, "everything is free")

    run(test)


def test_the_last_reply_of_each_of_many_concurrent_streams_says_why_it_ended() -> None:
    async def test() -> None:
        async with pools(VerifierConfig(max_sequences=4, max_queue=100)) as it:

            async def last(i: int) -> str:
                return (await replies_of(it.stream, request(str(i), prompts(40)[i], 1 + i % 9)))[-1].finish_reason

            assert await asyncio.gather(*(last(i) for i in range(40))) == ["length"] * 40
            await until(it.empty, "everything is free")

    run(test)


def test_a_gateway_that_does_not_read_is_left_and_no_one_else_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """What gRPC and the kernel hold for it comes first; what waits behind that is bounded."""
    monkeypatch.setattr(gateway_stream, "OUTBOX_REPLIES", 100)
    reads_little = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1024)]

    async def test() -> None:
        async with pools(VerifierConfig(max_sequences=32)) as it, grpc.aio.insecure_channel(it.address, options=reads_little) as channel:

            async def say() -> AsyncGenerator[pb.FromGateway, None]:
                yield pb.FromGateway(starts=[to_request_proto(request(str(i), [1, 2], 500, mode="off")) for i in range(31)])
                while True:
                    await asyncio.sleep(0.1)
                    yield pb.FromGateway()

            call = rpc.VerifierStub(channel).Connect(say())  # type: ignore[no-untyped-call]
            assert VERIFIER_METADATA in await call.initial_metadata()
            await until(lambda: len(it.engine.sequences) == 31, "they run")
            prompt = prompts(1)[0]
            running = asyncio.create_task(collect(it.stream, request("other", prompt, 150)))
            await until(lambda: len(it.engine.sequences) <= 1, "what it asked for is freed")
            assert not it.engine.totals.finished, "long before their ends"
            assert await running == greedy(tiny("llama"), prompt, 150)
            await until(it.empty, "everything is free")
            with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
                async for _ in call:
                    pass

    run(test)
