"""A draining verifier hands its requests over to another of its fingerprint; without one it finishes them."""

import asyncio
import itertools
import time
from contextlib import aclosing
from dataclasses import replace

import pytest

from deployments.gateway.verifier_link import MAX_FRUITLESS_ATTEMPTS, VerifierLink
from drafthouse.wire.generation_messages import GenerateReply, RefusalKind
from tests.unit.linked import REQUEST, collect, linked, tokens_of
from tests.unit.verifier_double import Served, VerifierDouble, refusing, serving, text_of


def drains(index: int):
    """A `before` that announces the end from this output token on."""

    async def before(here: int, served: Served) -> None:
        if here >= index:
            await served.beat(draining=True)
            await asyncio.sleep(0.02)

    return before


def test_a_draining_verifier_is_left_at_once_for_another():
    async def run():
        going, heir = VerifierDouble("a", before=drains(4)), VerifierDouble("b", load=7)
        async with linked(going, heir) as link:
            assert tokens_of(await collect(link)) == text_of(REQUEST)
            assert (link.moves["drain"], link.failovers) == (1, 0)
            assert link.routes.pick(None, (), time.monotonic()).replica == "b"  # nothing new is sent there
        assert heir.seen[0] == replace(REQUEST, attempt=2, delivered=text_of(REQUEST)[:4], resumed=True, had_turn=True)
        assert going.cancelled.is_set()

    asyncio.run(run())


@pytest.mark.parametrize("others", ["none", "of another fingerprint", "draining too"])
def test_the_only_verifier_finishes_though_it_drains(others):
    async def run():
        going = VerifierDouble("a", before=drains(2))
        other = VerifierDouble("b", load=7, fingerprint="f" if others == "draining too" else "g")
        async with serving(going, other) as (route_a, route_b):
            link = VerifierLink(5.0)
            link.update((route_a,) if others == "none" else (route_a, route_b))
            if others == "draining too":
                link.routes.gone("b", time.monotonic())
            assert tokens_of(await collect(link)) == text_of(REQUEST)
            assert not any(link.moves.values())
            if others == "of another fingerprint":
                assert link.routes.pick(None, (), time.monotonic()).replica == "b", "a new request may have either, and is spared this one"
            await link.close()
        assert other.seen == []

    asyncio.run(run())


def test_a_draining_verifier_is_left_when_another_comes():
    async def run():
        going, heir = VerifierDouble("a", before=drains(2)), VerifierDouble("b")
        async with serving(going, heir) as (route_a, route_b):
            link = VerifierLink(5.0)
            link.update((route_a,))
            async with aclosing(link.generate(REQUEST)) as stream:
                tokens = [*tokens_of(await anext(stream)), *tokens_of(await anext(stream))]
                link.update((route_a, route_b))
                tokens += [token async for replies in stream for reply in replies for token in reply.tokens]
            await link.close()
        assert tuple(tokens) == text_of(REQUEST)
        assert len(heir.seen) == 1

    asyncio.run(run())


def test_a_verifier_whose_time_is_over_hands_over_to_one_that_comes_late():
    async def moved(index, served):
        if index >= 2:
            await served.write(GenerateReply("r1", 1, index, (), "moved"))
            await asyncio.Event().wait()

    async def run():
        going, heir = VerifierDouble("a", before=moved), VerifierDouble("b")
        async with serving(going, heir) as (route_a, route_b):
            link = VerifierLink(5.0)
            link.update((route_a,))
            task = asyncio.create_task(collect(link))
            while not link.moves["drain"]:
                await asyncio.sleep(0.005)
            link.update((route_b,))
            assert tokens_of(await asyncio.wait_for(task, 2.0)) == text_of(REQUEST)
            await link.close()
        assert heir.seen[0].delivered == text_of(REQUEST)[:2]

    asyncio.run(run())


def test_what_a_draining_verifier_does_not_take_waits_for_another():
    """With no other verifier this is not overload: the controller has not heard yet, or the next one is being started."""

    async def run():
        going, heir = VerifierDouble("a", before=refusing(RefusalKind.NOT_TAKEN, "drains")), VerifierDouble("b")
        async with serving(going, heir) as (route_a, route_b):
            link = VerifierLink(5.0)
            link.update((route_a,))
            task = asyncio.create_task(collect(link))
            while not going.seen:
                await asyncio.sleep(0.005)
            link.update((route_b,))
            assert tokens_of(await asyncio.wait_for(task, 2.0)) == text_of(REQUEST)
            assert link.failovers == 0
            await link.close()

    asyncio.run(run())


def test_moves_are_no_sign_of_a_bad_request():
    """One after another drains before it has a token, as in an upgrade under load."""
    attempts = itertools.count(1)

    async def moves(index, served):
        await served.write(GenerateReply("r1", next(attempts), index, (), "moved"))
        await asyncio.Event().wait()

    async def run():
        going = [VerifierDouble(str(i), before=moves, load=i) for i in range(MAX_FRUITLESS_ATTEMPTS + 1)]
        async with linked(*going, VerifierDouble("heir", load=8)) as link:
            assert tokens_of(await collect(link)) == text_of(REQUEST)
            assert link.moves["drain"] == len(going)

    asyncio.run(run())
