"""The gateway's way to verifiers, against real gRPC servers: no token lost or doubled, whatever breaks."""

import asyncio
import random
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

import grpc
import pytest

from deployments import verifier_link
from deployments.verifier_link import NoVerifierError, VerifierLink
from deployments.verifier_routes import VerifierRoutes
from drafthouse.errors import OverloadError, RequestError
from drafthouse.generation_messages import GenerateReply, GenerateRequest, to_reply_proto
from drafthouse.membership import Route
from drafthouse.sampling import SamplingParams
from drafthouse.speculation import Speculation
from tests.unit.verifier_double import USAGE, VerifierDouble, at, forever, serving, text_of

REQUEST = GenerateRequest("r1", 1, (3, 1, 4), (), SamplingParams(), 42, 9, (0,), Speculation())
GONE = Route("gone", "127.0.0.1:1", "f", 0, 8)


@asynccontextmanager
async def linked(*verifiers: VerifierDouble, patience_s: float = 5.0):
    async with serving(*verifiers) as routes:
        link = VerifierLink(patience_s)
        link.update(routes)
        try:
            yield link
        finally:
            await link.close()


async def collect(link: VerifierLink, request: GenerateRequest = REQUEST) -> list[GenerateReply]:
    """All replies; checks that their tokens are in order and without a gap."""
    replies, done = [], len(request.emitted)
    async with aclosing(link.generate(request)) as stream:
        async for reply in stream:
            assert reply.first_index == done
            done += len(reply.tokens)
            replies.append(reply)
    assert [bool(reply.finish_reason) for reply in replies] == [False] * (len(replies) - 1) + [True]
    return replies


def tokens_of(replies: list[GenerateReply]) -> tuple[int, ...]:
    return tuple(token for reply in replies for token in reply.tokens)


def test_all_tokens_in_order_and_the_usage():
    async def run():
        verifier = VerifierDouble("a")
        async with linked(verifier) as link:
            replies = await collect(link)
        assert tokens_of(replies) == text_of(REQUEST)
        assert (replies[-1].finish_reason, replies[-1].usage) == ("length", USAGE)
        assert verifier.seen == [REQUEST]

    asyncio.run(run())


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED])
@pytest.mark.parametrize("broken_at", [0, 2, 8])
def test_a_stream_that_breaks_goes_on_elsewhere(broken_at, code):
    async def run():
        first, second = VerifierDouble("a", before=at(broken_at, code)), VerifierDouble("b", load=7)
        async with linked(first, second) as link:
            replies = await collect(link)
            assert link.failovers == 1
        assert tokens_of(replies) == text_of(REQUEST)
        (resumed,) = second.seen
        assert resumed == replace(REQUEST, attempt=2, emitted=text_of(REQUEST)[:broken_at])

    asyncio.run(run())


def test_a_server_that_dies_mid_stream():
    async def run():
        dying, heir = VerifierDouble("a"), VerifierDouble("b", load=7)
        async with serving(heir) as heirs:
            async with serving(dying) as routes:
                link = VerifierLink(5.0)
                link.update(routes + heirs)
                reached = asyncio.Event()
                dying.before = lambda index, context: _stall(reached) if index else asyncio.sleep(0)
                task = asyncio.create_task(collect(link))
                await reached.wait()
            assert tokens_of(await task) == text_of(REQUEST)  # its server is stopped by now
            assert heir.seen[0].emitted == text_of(REQUEST)[:2]
            await link.close()

    asyncio.run(run())


async def _stall(reached: asyncio.Event) -> None:
    reached.set()
    await asyncio.Event().wait()


def test_a_stream_without_a_finish_reason_is_a_broken_one():
    async def run():
        first = VerifierDouble("a", tokens=lambda request: text_of(request)[:4])
        first.reply = lambda request, index, output: replace(VerifierDouble.reply(first, request, index, output), finish_reason="")
        second = VerifierDouble("b", load=7)
        async with linked(first, second) as link:
            assert tokens_of(await collect(link)) == text_of(REQUEST)
        assert second.seen[0].emitted == text_of(REQUEST)[:4]

    asyncio.run(run())


def test_overlapping_and_foreign_replies_are_trimmed_and_a_gap_is_a_break():
    async def run():
        output = text_of(REQUEST)
        first = VerifierDouble("a", before=lambda index, context: odd_replies(context))

        async def odd_replies(context):
            for attempt, start, end in [(1, 0, 3), (7, 3, 6), (1, 1, 5), (1, 2, 4), (1, 7, 9)]:
                await context.write(to_reply_proto(GenerateReply("r1", attempt, start, output[start:end])))

        second = VerifierDouble("b", load=7)
        async with linked(first, second) as link:
            replies = await collect(link)
        assert tokens_of(replies) == output
        assert [reply.tokens for reply in replies[:2]] == [output[:3], output[3:5]]
        assert second.seen[0].emitted == output[:5]

    asyncio.run(run())


def test_after_the_first_token_only_the_same_fingerprint_goes_on():
    async def run():
        first = VerifierDouble("a", before=at(4, grpc.StatusCode.UNAVAILABLE))
        other = VerifierDouble("b", fingerprint="other", load=1)
        async with linked(first, other, patience_s=0.3) as link:
            with pytest.raises(NoVerifierError):
                await collect(link)
        assert other.seen == []

    asyncio.run(run())


def test_before_the_first_token_any_target_will_do():
    async def run():
        first = VerifierDouble("a", before=at(0, grpc.StatusCode.UNAVAILABLE))
        other = VerifierDouble("b", fingerprint="other", load=1)
        async with linked(first, other) as link:
            assert tokens_of(await collect(link)) == text_of(REQUEST)

    asyncio.run(run())


def test_a_full_verifier_passes_the_request_on():
    async def run():
        full, free = VerifierDouble("a", before=at(0, grpc.StatusCode.RESOURCE_EXHAUSTED)), VerifierDouble("b", load=7)
        async with linked(full, free) as link:
            assert tokens_of(await collect(link)) == text_of(REQUEST)
            assert link.failovers == 0

    asyncio.run(run())


def test_all_full_is_overload_at_once():
    async def run():
        full = [VerifierDouble(name, before=at(0, grpc.StatusCode.RESOURCE_EXHAUSTED)) for name in "ab"]
        async with linked(*full) as link:
            with pytest.raises(OverloadError):
                await asyncio.wait_for(collect(link), 2.0)
        assert [len(verifier.seen) for verifier in full] == [1, 1]

    asyncio.run(run())


def test_a_bad_request_is_not_tried_again():
    async def run():
        verifiers = [VerifierDouble(name, before=at(0, grpc.StatusCode.INVALID_ARGUMENT, "too long for me")) for name in "ab"]
        async with linked(*verifiers) as link:
            with pytest.raises(RequestError, match="too long for me"):
                await collect(link)
        assert sum(len(verifier.seen) for verifier in verifiers) == 1

    asyncio.run(run())


def test_a_request_that_breaks_every_verifier_is_given_up():
    async def run():
        verifiers = [VerifierDouble(str(i), before=at(0, grpc.StatusCode.INTERNAL, "boom")) for i in range(6)]
        async with linked(*verifiers) as link:
            with pytest.raises(NoVerifierError, match="boom"):
                await collect(link)
        assert sum(len(verifier.seen) for verifier in verifiers) == verifier_link.MAX_FRUITLESS_ATTEMPTS

    asyncio.run(run())


def test_waits_for_a_verifier_that_comes_late():
    async def run():
        verifier = VerifierDouble("a")
        async with serving(verifier) as routes:
            link = VerifierLink(5.0)
            link.update((GONE,))
            task = asyncio.create_task(collect(link))
            await asyncio.sleep(0.05)
            link.update(routes)
            assert tokens_of(await asyncio.wait_for(task, 2.0)) == text_of(REQUEST)
            await link.close()

    asyncio.run(run())


@pytest.mark.parametrize("routes", [(), (GONE,)])
def test_without_a_verifier_the_wait_is_bounded(routes):
    async def run():
        link = VerifierLink(patience_s=0.1)
        link.update(routes)
        with pytest.raises(NoVerifierError):
            await asyncio.wait_for(collect(link), 2.0)
        await link.close()

    asyncio.run(run())


@pytest.mark.parametrize(("stop_tokens", "reason"), [((0,), "length"), ((text_of(REQUEST)[-1],), "stop")])
def test_a_finish_that_got_lost_is_made_up(stop_tokens, reason):
    async def run():
        verifier = VerifierDouble("a")
        verifier.reply = lambda request, index, output: replace(VerifierDouble.reply(verifier, request, index, output), finish_reason="")
        async with linked(verifier) as link:
            replies = await collect(link, replace(REQUEST, stop_tokens=stop_tokens))
        assert tokens_of(replies) == text_of(REQUEST)
        assert replies[-1].finish_reason == reason
        assert len(verifier.seen) == 1

    asyncio.run(run())


@pytest.mark.parametrize("how", ["task cancelled", "generator closed"])
def test_cancelling_reaches_the_server(how):
    async def run():
        verifier = VerifierDouble("a", before=lambda index, context: forever(index, context) if index >= 2 else asyncio.sleep(0))
        async with linked(verifier) as link:
            stream = link.generate(REQUEST)
            assert (await anext(stream)).tokens
            if how == "task cancelled":
                task = asyncio.create_task(anext(stream))
                await asyncio.sleep(0.02)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            else:
                await stream.aclose()
            await asyncio.wait_for(verifier.cancelled.wait(), 2.0)
            assert link.routes._running == {}

    asyncio.run(run())


def test_a_silent_verifier_that_was_taken_out_is_left(monkeypatch):
    monkeypatch.setattr(verifier_link, "SILENCE_S", 0.0)

    async def run():
        silent, heir = VerifierDouble("a", before=forever), VerifierDouble("b", load=7)
        async with linked(silent, heir) as link:
            task = asyncio.create_task(collect(link))
            while not silent.seen:
                await asyncio.sleep(0.005)
            link.update((silent.route, heir.route))
            await asyncio.sleep(0.01)
            assert heir.seen == []  # still routed: it may take its time
            link.update((heir.route,))
            assert tokens_of(await asyncio.wait_for(task, 2.0)) == text_of(REQUEST)

    asyncio.run(run())


def test_a_long_prompt_fits_the_wire():
    async def run():
        verifier = VerifierDouble("a")
        async with linked(verifier) as link:
            await collect(link, replace(REQUEST, prompt=(150_000,) * 2_000_000))
        assert len(verifier.seen[0].prompt) == 2_000_000

    asyncio.run(run())


def route(replica: str, load: int, capacity: int = 8) -> Route:
    return Route(replica, f"{replica}:1", "f", load, capacity)


def test_the_least_loaded_share_is_picked():
    routes = VerifierRoutes()
    routes.replace((route("a", 4), route("b", 3), route("c", 5, capacity=16)))
    assert routes.pick(None, ()).replica == "c"
    assert routes.pick(None, {"c"}).replica == "b"
    assert routes.pick("other", ()) is None


def test_what_was_started_since_the_report_counts():
    routes = VerifierRoutes()
    a, b = route("a", 0), route("b", 1)
    routes.replace((a, b))
    picked = []
    for _ in range(5):
        picked.append(routes.pick(None, ()))
        routes.started(picked[-1])
    assert [one.replica for one in picked].count("a") == 3
    routes.replace((a, b))  # a report from before the dispatch does not hide what runs there
    routes.ended(b)
    routes.ended(b)
    assert routes.pick(None, ()).replica == "b"


def test_ties_are_broken_at_random():
    random.seed(1)
    routes = VerifierRoutes()
    routes.replace((route("a", 2), route("b", 2)))
    assert {routes.pick(None, ()).replica for _ in range(40)} == {"a", "b"}
