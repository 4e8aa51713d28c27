"""How long a request waits, and for which verifiers: real gRPC servers that refuse, die or come late."""

import asyncio

import pytest

from deployments.gateway.verifier_link import NoVerifierError, VerifierLink
from drafthouse.errors import OverloadError
from drafthouse.wire.generation_messages import RefusalKind
from tests.unit.linked import GONE, REQUEST, collect, linked, tokens_of
from tests.unit.verifier_double import VerifierDouble, cut_at, refusing, serving, text_of


def test_after_the_first_token_only_the_same_fingerprint_goes_on():
    async def run():
        first = VerifierDouble("a", before=cut_at(4))
        other = VerifierDouble("b", fingerprint="other", load=1)
        async with linked(first, other, patience_s=0.3) as link:
            with pytest.raises(NoVerifierError):
                await collect(link)
        assert other.seen == []

    asyncio.run(run())


def test_before_the_first_token_any_target_will_do():
    async def run():
        first = VerifierDouble("a", before=cut_at(0))
        other = VerifierDouble("b", fingerprint="other", load=1)
        async with linked(first, other) as link:
            assert tokens_of(await collect(link)) == text_of(REQUEST)

    asyncio.run(run())


def test_a_full_verifier_passes_the_request_on():
    async def run():
        full, free = VerifierDouble("a", before=refusing(RefusalKind.FULL)), VerifierDouble("b", load=7)
        async with linked(full, free) as link:
            assert tokens_of(await collect(link)) == text_of(REQUEST)
            assert link.failovers == 0

    asyncio.run(run())


def test_all_full_is_overload_at_once():
    async def run():
        hints = {"a": 6.0, "b": 3.0}
        full = [VerifierDouble(name, before=refusing(RefusalKind.FULL, retry_after_s=s)) for name, s in hints.items()]
        async with linked(*full) as link:
            with pytest.raises(OverloadError) as caught:
                await asyncio.wait_for(collect(link), 2.0)
        assert [len(verifier.seen) for verifier in full] == [1, 1]
        assert caught.value.retry_after_s == pytest.approx(2.0), "1/6 + 1/3 places a second"

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


def test_a_request_that_lost_its_verifier_waits_for_room_elsewhere():
    async def run():
        dying = VerifierDouble("a", before=cut_at(0))
        full = VerifierDouble("b", load=7, before=refusing(RefusalKind.FULL))
        async with linked(dying, full) as link:
            task = asyncio.create_task(collect(link))
            while not full.seen:
                await asyncio.sleep(0.005)
            full.before = None
            assert tokens_of(await asyncio.wait_for(task, 2.0)) == text_of(REQUEST)

    asyncio.run(run())


def test_patience_begins_when_the_verifier_is_lost_though_it_gave_no_token():
    """It may have waited for long in that verifier's queue."""

    async def run():
        dies = cut_at(0)

        async def later(index, context):
            await asyncio.sleep(0.3)
            await dies(index, context)

        first, heir = VerifierDouble("a", before=later), VerifierDouble("b")
        async with serving(first, heir) as (route_a, route_b):
            link = VerifierLink(patience_s=0.2)
            link.update((route_a,))
            task = asyncio.create_task(collect(link))
            while not first.seen:
                await asyncio.sleep(0.005)
            link.update(())
            while not link.failovers:
                await asyncio.sleep(0.005)
            link.update((route_b,))
            assert tokens_of(await task) == text_of(REQUEST)
            await link.close()

    asyncio.run(run())


def test_patience_begins_when_the_verifier_is_lost_and_says_what_was_missing():
    async def run():
        slow = VerifierDouble("a", before=lambda index, context: cut_at(2)(index, context) if index else asyncio.sleep(0.2))
        other = VerifierDouble("b", fingerprint="g", load=7)
        async with serving(slow, other) as routes:
            link = VerifierLink(patience_s=0.1)
            link.update(routes)
            stream = link.generate(REQUEST)
            assert await anext(stream)
            link.update(routes[1:])
            with pytest.raises(NoVerifierError, match=r"0.1 s \(1 are known, 0 of them with the fingerprint"):
                await anext(stream)
            await link.close()
        assert other.seen == []

    asyncio.run(run())


def test_a_broken_stream_is_gone_on_with_elsewhere_within_a_second():
    async def run():
        times = []

        async def note(index, served) -> None:
            times.append(asyncio.get_running_loop().time())

        async def breaks(index, served) -> None:
            await note(index, served)
            if index >= 4:
                await served.cut()

        async with linked(VerifierDouble("a", before=breaks), VerifierDouble("b", load=7, before=note)) as link:
            assert tokens_of(await collect(link)) == text_of(REQUEST)
        broken, resumed = times[2], times[3]
        assert resumed - broken < 1.0, "nothing is waited for"

    asyncio.run(run())
