"""Replicas that go while they are at work: a verifier hands its requests over, a drafter its sessions, both within their time."""

import asyncio
import time
from dataclasses import replace

from deployments.gateway.request_progress import Unreachable
from deployments.gateway.verifier_link import VerifierLink
from drafter.engine import DrafterEngine
from drafthouse.config.serving import DrafterConfig, TreeConfig, VerifierConfig
from drafthouse.sampling import SamplingParams
from drafthouse.wire.generation_messages import GenerateRequest
from drafthouse.wire.session_messages import Dropped, Grow, Open, Opened, Refused
from tests.engine.oracle import greedy
from tests.engine.pairs import FAST, loaded, noisy_copy, prompts, request
from tests.engine.servers import RawDrafter, collect, connect, refusal, run, start_drafter, start_routed, start_verifier, until
from tests.engine.tiny_models import tiny
from verifier.draft_sessions import RETRY_S
from verifier.server import FAREWELL_S

TOKENS = 150


async def text(link: VerifierLink, r: GenerateRequest) -> list[int]:
    tokens: list[int] = []
    async for replies in link.generate(r):
        for reply in replies:
            assert reply.first_token_index == len(tokens)
            tokens += reply.tokens
    assert reply.finish_reason == "length", reply.error
    assert reply.usage.steps + reply.usage.accepted >= len(tokens), "usage is of the whole request"
    return tokens


def test_a_draining_verifier_hands_over_what_runs_and_what_waits() -> None:
    """Six requests on four places, so that two are in the queue."""

    async def test() -> None:
        drafter, drafter_route = await start_drafter(0.01, "drafter")
        going, route = await start_routed("going", VerifierConfig(max_sequences=4))
        heir, heirs_route = await start_routed("heir", VerifierConfig(max_sequences=4))
        for server in (going, heir):
            server.set_drafters([drafter_route])
            await until(lambda server=server: bool(server.loop.engine.draft_sessions.drafters), "connected")  # type: ignore[misc]
        link = VerifierLink(10.0)
        link.update((route,))
        texts = prompts(6)
        running = [asyncio.create_task(text(link, request(str(i), p, TOKENS, mode="fixed", nodes=6, depth=3))) for i, p in enumerate(texts)]
        await until(lambda: len(going.loop.engine.scheduler.running) == 4 and going.loop.engine.totals.committed > 40, "four run")
        link.update((route, heirs_route))
        started = time.monotonic()
        await going.drain(20.0)
        assert time.monotonic() - started < 5.0, "with an heir it need not finish anything"
        assert not going.loop.engine.totals.finished
        oracle = tiny("llama")
        for i, task in enumerate(running):
            assert await task == greedy(oracle, texts[i], TOKENS), f"prompt {i}"
        assert (link.moves["drain"], link.failovers) == (6, 0)
        await until(lambda: going.loop.engine.scheduler.allocator.free_count == going.loop.engine.scheduler.allocator.count, "KV freed")
        await until(lambda: not drafter.loop.engine.sessions, "sessions closed")
        await link.close()
        for server in (going, heir):
            await server.stop()
        await drafter.stop()

    run(test)


def test_the_only_verifier_finishes_what_it_has_and_takes_nothing_new() -> None:
    async def test() -> None:
        going, route = await start_routed("going")
        link = VerifierLink(10.0)
        link.update((route,))
        prompt = prompts(1)[0]
        running = asyncio.create_task(text(link, request("a", prompt, TOKENS)))
        await until(lambda: going.loop.engine.totals.committed > 10, "it runs")
        draining = asyncio.create_task(going.drain(30.0))
        await asyncio.sleep(0)
        stream = await connect(route.address)
        assert await refusal(stream, request("b", prompt, 5)) == (Unreachable, "this verifier takes no new requests")
        assert await running == greedy(tiny("llama"), prompt, TOKENS)
        await asyncio.wait_for(draining, 2.0)
        assert not any(link.moves.values())
        await stream.close()
        await link.close()
        await going.stop()

    run(test)


def test_what_is_not_finished_in_time_goes_on_where_another_comes_later() -> None:
    async def test() -> None:
        silent = RawDrafter()  # the verifier waits half a second a token for it, so that the request is still there
        going, route = await start_routed("going")
        going.set_drafters([await silent.start()])
        await until(lambda: bool(going.loop.engine.draft_sessions.drafters), "connected")
        link = VerifierLink(10.0)
        link.update((route,))
        prompt = prompts(1)[0]
        running = asyncio.create_task(text(link, request("a", prompt, 20, mode="fixed", nodes=6, depth=3)))
        await until(lambda: going.loop.engine.totals.committed > 2, "it runs")
        started = time.monotonic()
        await going.drain(0.3)
        assert time.monotonic() - started < 0.3 + FAREWELL_S
        await going.stop()
        heir, heirs_route = await start_routed("heir")
        link.update((heirs_route,))
        assert await running == greedy(tiny("llama"), prompt, 20)
        assert heir.loop.engine.totals.committed < 18, "it went on where the first one had stopped"
        await link.close()
        await heir.stop()
        await silent.server.stop(grace=0)

    run(test)


def test_a_draining_drafter_drops_its_sessions_and_another_takes_them_at_once() -> None:
    async def test() -> None:
        going, route = await start_drafter(0.01, "going")
        verifier, stream = await start_verifier()
        engine = verifier.loop.engine
        verifier.set_drafters([route])
        await until(lambda: bool(engine.draft_sessions.drafters), "connected")
        texts = prompts(4)
        running = [
            asyncio.create_task(collect(stream, request(str(i), p, TOKENS, mode="fixed", nodes=6, depth=3))) for i, p in enumerate(texts)
        ]
        await until(lambda: len(going.loop.engine.sessions) == 4 and engine.totals.accepted > 5, "accepted drafts")
        heir, heirs_route = await start_drafter(0.01, "heir")
        verifier.set_drafters([route, heirs_route])
        await until(lambda: len(engine.draft_sessions.drafters) == 2, "both connected")
        epochs = {s.epoch for s in going.loop.engine.sessions.values()}
        await going.drain()
        assert not going.loop.engine.sessions
        await until(lambda: engine.draft_sessions.events.dropped == 4, "each was told")
        await until(lambda: len(heir.loop.engine.sessions) == 4, "all on the other", 0.9 * RETRY_S)
        assert min(s.epoch for s in heir.loop.engine.sessions.values()) > max(epochs)
        oracle = tiny("llama")
        for i, task in enumerate(running):
            assert await task == greedy(oracle, texts[i], TOKENS)
        await until(lambda: engine.draft_sessions.drafters == ["heir"], "its stream has ended and it takes no other")
        assert going.loop.engine.totals.sessions == 4
        await stream.close()
        for server in (verifier, going, heir):
            await server.stop()

    run(test)


def test_a_draining_drafter_refuses_what_was_on_its_way() -> None:
    engine = DrafterEngine(loaded(noisy_copy("llama", 0, 0.01)), FAST, DrafterConfig(), TreeConfig())
    opened = Open("a", 1, (1, 2, 3), SamplingParams(), 0, 1, "f", 8, 4, 0.0, 256)
    assert [type(message) for _, message in engine.handle("peer", opened)] == [Opened, Grow]
    assert engine.drain() == [("peer", Dropped("a", 1, "this drafter drains"))]
    assert engine.handle("peer", replace(opened, epoch=2)) == [("peer", Refused("a", 2, "this drafter drains"))]
