"""A verifier that lives while its device does not come back is left where another may take over, and waited for where not."""

import asyncio
import time
from dataclasses import replace

import pytest

from deployments.gateway.request_progress import RequestProgress, Stalled
from deployments.gateway.verifier_link import VerifierLink
from tests.unit.linked import REQUEST, collect, linked, tokens_of
from tests.unit.verifier_double import Served, VerifierDouble, serving, text_of


def stalls(index: int, back: asyncio.Event):
    """A `before` that says at this output token that the device hangs, until `back`."""

    async def before(here: int, served: Served) -> None:
        if here == index:
            while not back.is_set():
                await served.beat(stalled=True)
                await asyncio.sleep(0.02)
            await served.beat()

    return before


def test_its_requests_go_on_elsewhere_and_nothing_new_is_sent_there() -> None:
    async def run() -> None:
        back = asyncio.Event()
        hung, heir = VerifierDouble("a", before=stalls(4, back)), VerifierDouble("b", load=7)
        async with linked(hung, heir) as link:
            assert tokens_of(await asyncio.wait_for(collect(link), 5.0)) == text_of(REQUEST)
            assert (link.failovers, sum(link.moves.values())) == (1, 0)
            route = link.routes.pick(None, (), time.monotonic())
            assert route is not None
            assert route.replica == "b"
        assert heir.seen == [replace(REQUEST, attempt=2, delivered=text_of(REQUEST)[:4], resumed=True, had_turn=True)]
        assert hung.cancelled.is_set(), "what it still says of this request is not wanted"

    asyncio.run(run())


@pytest.mark.parametrize("other", ["none", "of another fingerprint", "set aside"])
def test_where_no_other_may_take_over_the_device_is_waited_for(other: str) -> None:
    async def run() -> None:
        back = asyncio.Event()
        hung, second = VerifierDouble("a", before=stalls(4, back)), VerifierDouble("b", load=7, fingerprint="g")
        if other == "set aside":
            second.fingerprint = "f"
        async with serving(hung, second) as (route, another):
            link = VerifierLink(5.0)
            link.update((route,) if other == "none" else (route, another))
            if other == "set aside":
                link.routes.gone("b", time.monotonic())
            running = asyncio.create_task(collect(link))
            while link.routes.another("f", {"b"}, time.monotonic()):  # until the word of the hung one has come
                await asyncio.sleep(0.005)
            back.set()
            assert tokens_of(await running) == text_of(REQUEST)
            assert (link.failovers, sum(link.moves.values())) == (0, 0)
            await link.close()
        assert second.seen == []

    asyncio.run(run())


def test_more_than_half_that_hang_share_what_hangs() -> None:
    """Then requests stay: the one that hangs last must not get those of all others."""

    async def run() -> None:
        async with serving(*map(VerifierDouble, "abc")) as routes:
            link = VerifierLink(5.0)
            link.update(routes)
            streams = [await link._streams.connected(route.address) for route in routes]
            found = []
            for stream in streams:
                stream.stalled = True
                found.append(link._most_stall())
            assert found == [False, True, True]
            await link.close()

    asyncio.run(run())


def test_only_a_request_that_was_there_may_be_the_cause() -> None:
    progress = RequestProgress(REQUEST, 0.0)
    progress.failed("a", Stalled("it hangs", blamed=False))
    assert progress.fruitless == 0
    progress.failed("b", Stalled("it hangs", blamed=True))
    assert progress.fruitless == 1


def test_one_that_comes_while_the_device_hangs_takes_over() -> None:
    async def run() -> None:
        hung, heir = VerifierDouble("a", before=stalls(4, asyncio.Event())), VerifierDouble("b")
        async with serving(hung, heir) as (route, another):
            link = VerifierLink(5.0)
            link.update((route,))
            running = asyncio.create_task(collect(link))
            while not hung.seen:
                await asyncio.sleep(0.005)
            link.update((route, another))
            assert tokens_of(await asyncio.wait_for(running, 5.0)) == text_of(REQUEST)
            await link.close()
        assert len(heir.seen) == 1

    asyncio.run(run())
