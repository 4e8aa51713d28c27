"""The gateway's way to verifiers, against real gRPC servers: no token lost or doubled, whatever breaks."""

import asyncio
import time
from dataclasses import replace

import grpc
import pytest

from deployments.gateway import verifier_link
from deployments.gateway.request_progress import UNTOLD_S
from deployments.gateway.verifier_link import NoVerifierError, VerifierLink
from drafthouse.errors import OverloadError, RequestError
from drafthouse.policy.sent_prefixes import blocks_of
from drafthouse.wire.generation_messages import GenerateReply, RefusalKind, SpeculationUsage
from tests.unit.linked import REQUEST, collect, linked, tokens_of
from tests.unit.verifier_double import USAGE, VerifierDouble, cut_at, forever, refusing, serving, text_of


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
        first, second = VerifierDouble("a", before=cut_at(broken_at), status=code), VerifierDouble("b", load=7)
        async with linked(first, second) as link:
            replies = await collect(link)
            assert link.failovers == 1
            assert link.routes.pick(None, (), time.monotonic()).replica == "b", "the next request is spared the one that failed"
        assert tokens_of(replies) == text_of(REQUEST)
        (resumed,) = second.seen
        assert resumed == replace(REQUEST, attempt=2, delivered=text_of(REQUEST)[:broken_at], resumed=True, had_turn=broken_at > 0)

    asyncio.run(run())


def test_a_server_that_dies_mid_stream():
    async def run():
        dying, heir = VerifierDouble("a"), VerifierDouble("b", load=7)
        dying.before = lambda index, served: forever(index, served) if index else asyncio.sleep(0)
        async with serving(heir) as heirs:
            link = VerifierLink(5.0)
            stream = link.generate(REQUEST)
            async with serving(dying) as routes:
                link.update(routes + heirs)
                tokens = [*tokens_of(await anext(stream))]
            tokens += [token async for replies in stream for token in tokens_of(replies)]  # its server is stopped by now
            assert tuple(tokens) == text_of(REQUEST)
            assert heir.seen[0].delivered == text_of(REQUEST)[:2]
            await link.close()

    asyncio.run(run())


def test_a_stream_without_a_finish_reason_is_a_broken_one():
    async def run():
        first = VerifierDouble("a", tokens=lambda request: text_of(request)[:4])
        first.reply = lambda request, index, output: replace(VerifierDouble.reply(first, request, index, output), finish_reason="")
        second = VerifierDouble("b", load=7)
        async with linked(first, second) as link:
            assert tokens_of(await collect(link)) == text_of(REQUEST)
        assert second.seen[0].delivered == text_of(REQUEST)[:4]

    asyncio.run(run())


def test_overlapping_and_foreign_replies_are_trimmed_and_a_gap_is_a_break():
    async def run():
        output = text_of(REQUEST)
        first = VerifierDouble("a", before=lambda index, served: odd_replies(served))

        async def odd_replies(served):
            for attempt, start, end in [(1, 0, 3), (7, 3, 6), (1, 1, 5), (1, 2, 4), (1, 7, 9)]:
                await served.write(GenerateReply("r1", attempt, start, output[start:end]))

        second = VerifierDouble("b", load=7)
        async with linked(first, second) as link:
            replies = await collect(link)
        assert tokens_of(replies) == output
        assert [reply.tokens for reply in replies[:2]] == [output[:3], output[3:5]]
        assert second.seen[0].delivered == output[:5]

    asyncio.run(run())


def test_a_large_full_pool_is_asked_a_few_times_those_with_most_room_first():
    async def run():
        full = [VerifierDouble(str(i), before=refusing(RefusalKind.FULL), load=i) for i in range(8)]
        async with linked(*full) as link:
            with pytest.raises(OverloadError) as caught:
                await asyncio.wait_for(collect(link), 2.0)
        assert [len(verifier.seen) for verifier in full] == [1] * verifier_link.MAX_REFUSALS + [0] * (8 - verifier_link.MAX_REFUSALS)
        assert caught.value.retry_after_s == UNTOLD_S / verifier_link.MAX_REFUSALS

    asyncio.run(run())


def test_a_bad_request_is_not_tried_again():
    async def run():
        verifiers = [VerifierDouble(name, before=refusing(RefusalKind.WRONG, "too long for me")) for name in "ab"]
        async with linked(*verifiers) as link:
            with pytest.raises(RequestError, match="too long for me"):
                await collect(link)
        assert sum(len(verifier.seen) for verifier in verifiers) == 1

    asyncio.run(run())


def test_a_request_that_breaks_every_verifier_is_given_up():
    async def run():
        verifiers = [VerifierDouble(str(i), before=cut_at(0)) for i in range(6)]
        async with linked(*verifiers) as link:
            with pytest.raises(NoVerifierError, match=r"4 attempts in a row broke off; .*\(UNAVAILABLE\)$"):
                await collect(link)
        assert sum(len(verifier.seen) for verifier in verifiers) == verifier_link.MAX_FRUITLESS_ATTEMPTS

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
        verifier = VerifierDouble("a", before=lambda index, served: forever(index, served) if index >= 2 else asyncio.sleep(0))
        async with linked(verifier) as link:
            stream = link.generate(REQUEST)
            assert await anext(stream)
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


def test_usage_counts_all_attempts():
    async def run():
        first, second = VerifierDouble("a", before=cut_at(4)), VerifierDouble("b", load=7)
        async with linked(first, second) as link:
            replies = await collect(link)
        assert replies[1].usage == USAGE
        assert replies[-1].usage == SpeculationUsage(drafted=18, verified=16, accepted=10, steps=6, cached_tokens=1), "the prompt is one"

    asyncio.run(run())


def test_a_long_prompt_fits_the_wire():
    async def run():
        verifier = VerifierDouble("a")
        async with linked(verifier) as link:
            await collect(link, replace(REQUEST, prompt=(150_000,) * 2_000_000))
        assert len(verifier.seen[0].prompt) == 2_000_000

    asyncio.run(run())


def test_a_stream_whose_channel_is_closed_under_it_goes_on_elsewhere():
    """As an old channel is at last, after certificates were replaced: the call is cancelled, its reader is not."""

    async def run():
        async def close(index, served) -> None:
            if index == 4:
                [dialled] = link._streams._open.values()
                await dialled.result()._channel.close()
                await asyncio.Event().wait()

        first, second = VerifierDouble("a", before=close), VerifierDouble("b", load=7)
        async with linked(first, second) as link:
            assert tokens_of(await asyncio.wait_for(collect(link), 10)) == text_of(REQUEST)
        assert [request.attempt for request in second.seen] == [2]

    asyncio.run(run())


@pytest.mark.parametrize("prompt", [tuple(range(1, 41)), (3, 1, 4)])
def test_the_next_turn_of_a_chat_goes_where_the_last_one_went(prompt):
    """Though by the last heartbeat there is more to do. Of a short prompt the output makes a beginning to remember."""

    async def run():
        verifiers = [VerifierDouble("a"), VerifierDouble("b")]
        async with linked(*verifiers) as link:
            link.update(tuple(replace(verifier.route, caches_prefixes=True) for verifier in verifiers))
            first = replace(REQUEST, prompt=prompt, max_tokens=40)
            output = tokens_of(await collect(link, first))
            [went] = [verifier for verifier in verifiers if verifier.seen]
            went.load = 1
            link.update(tuple(replace(verifier.route, caches_prefixes=True) for verifier in verifiers))
            other = replace(REQUEST, request_id="r2", prompt=(9, 9))
            again = replace(first, request_id="r3", prompt=(*prompt, *output, 7))
            await collect(link, other)
            await collect(link, again)
        assert [request.request_id for request in went.seen] == ["r1", "r3"]

    asyncio.run(run())


def test_another_key_does_not_know_where_a_text_went():
    async def run():
        verifiers = [VerifierDouble("a"), VerifierDouble("b", load=1)]
        async with linked(*verifiers) as link:
            link.update(tuple(replace(verifier.route, caches_prefixes=True) for verifier in verifiers))
            first = replace(REQUEST, prompt=tuple(range(1, 41)), cache_key="one")
            await collect(link, first)
            verifiers[0].load, verifiers[1].load = 1, 0
            link.update(tuple(replace(verifier.route, caches_prefixes=True) for verifier in verifiers))
            await collect(link, replace(first, request_id="r2", cache_key="two"))
            await collect(link, replace(first, request_id="r3"))
        assert [[request.request_id for request in verifier.seen] for verifier in verifiers] == [["r1", "r3"], ["r2"]]

    asyncio.run(run())


@pytest.mark.parametrize("kind", [RefusalKind.FULL, RefusalKind.WRONG])
def test_what_a_verifier_refused_is_not_in_its_cache(kind):
    """The beginning that it had before still is."""

    async def run():
        verifier = VerifierDouble("a")
        async with linked(verifier) as link:
            route = replace(verifier.route, caches_prefixes=True)
            link.update((route,))
            await collect(link, replace(REQUEST, prompt=tuple(range(40))))
            verifier.before = refusing(kind)
            long = tuple(range(200))
            with pytest.raises(OverloadError if kind is RefusalKind.FULL else RequestError):
                await collect(link, replace(REQUEST, request_id="r2", prompt=long))
            assert link.routes.started(route, 0.0, blocks_of("", long, ())) == 1

    asyncio.run(run())


def test_requests_to_one_verifier_share_one_stream():
    """Also those that come while it is dialled."""

    async def run():
        verifier = VerifierDouble("a")
        async with linked(verifier) as link:
            requests = [replace(REQUEST, request_id=f"r{i}", prompt=(i + 1,)) for i in range(20)]
            texts = await asyncio.gather(*(collect(link, request) for request in requests))
            assert [tokens_of(text) for text in texts] == [text_of(request) for request in requests]
        assert (verifier.streams, len(verifier.seen)) == (1, 20)

    asyncio.run(run())
