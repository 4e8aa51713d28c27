"""The gateway's part in moves, against real gRPC servers: what it asks back, where that goes, and what it leaves alone."""

import asyncio
from dataclasses import replace

import pytest

from deployments.gateway.verifier_link import VerifierLink
from drafthouse.policy.sent_prefixes import blocks_of
from drafthouse.wire.dialect import BEFORE, OURS, Dialect
from drafthouse.wire.generation_messages import GenerateReply, RefusalKind, SpeculationUsage
from drafthouse.wire.membership import Route
from tests.unit.linked import REQUEST, collect, linked, tokens_of
from tests.unit.verifier_double import USAGE, Served, VerifierDouble, forever, refusing, text_of

HELD_UP = {"held_up": 2, "load": 6, "max_sequences": 4, "caches_prefixes": True}
IDLE = {"max_sequences": 4, "kv_slots_free": 1000, "caches_prefixes": True}


def returns(index: int):
    """A `before` that gives the request back at this output token."""

    async def before(here: int, served: Served) -> None:
        if here >= index:
            await served.write(GenerateReply(served.request.request_id, served.request.attempt, here, (), "returned"))
            await asyncio.Event().wait()

    return before


@pytest.mark.parametrize("index", [0, 4])
def test_what_is_given_back_goes_where_there_is_room(index: int) -> None:
    async def run() -> None:
        full, idle = VerifierDouble("a", before=returns(index)), VerifierDouble("b", load=7)
        async with linked(full, idle) as link:
            asked: list[str] = []
            replies = [reply async for arrived in link.generate(REQUEST, asked) for reply in arrived]
            assert (link.moves, link.failovers) == ({"drain": 0, "room": 1, "spread": 0}, 0)
            assert not link.routes._aside.failing("a", 1e9), "nothing speaks against it"
            assert asked == ["a", "b"]
        assert tokens_of(replies) == text_of(REQUEST)
        assert replies[-1].usage == (USAGE if not index else SpeculationUsage(18, 16, 10, 6, cached_tokens=1)), "the prompt is one"
        assert idle.seen == [replace(REQUEST, attempt=2, delivered=text_of(REQUEST)[:index], resumed=True, had_turn=True)]

    asyncio.run(run())


def test_what_was_given_back_is_not_refused_though_the_room_is_gone() -> None:
    """Another gateway was faster: it goes back, to the beginning of the queue, and its client hears nothing of it."""

    async def run() -> None:
        async def once(index: int, served: Served) -> None:
            if served.request.attempt == 1:
                link.update((replace(full.route, load=7), taken.route))
                await returns(0)(index, served)

        full, taken = VerifierDouble("a", before=once), VerifierDouble("b", before=refusing(RefusalKind.FULL), load=1)
        async with linked(full, taken) as link:
            taken.load = 0
            assert tokens_of(await collect(link)) == text_of(REQUEST)
        assert [request.attempt for request in taken.seen] == [2]
        assert full.seen == [REQUEST, replace(REQUEST, attempt=3, resumed=True, had_turn=True)]

    asyncio.run(run())


def test_what_was_given_back_unbegun_is_not_in_that_verifiers_cache() -> None:
    async def run() -> None:
        full, idle = VerifierDouble("a", before=returns(0)), VerifierDouble("b", load=7)
        async with linked(full, idle) as link:
            routes = [replace(verifier.route, caches_prefixes=True) for verifier in (full, idle)]
            link.update(tuple(routes))
            text = tuple(range(1, 65))
            await collect(link, replace(REQUEST, prompt=text))
            assert [link.routes.started(route, 0.0, blocks_of("", text, ())) for route in routes] == [0, 2]

    asyncio.run(run())


def table(full: VerifierDouble, idle: VerifierDouble) -> tuple[Route, Route]:
    return replace(full.route, **HELD_UP), replace(idle.route, **IDLE)


async def waiting(link: VerifierLink, full: VerifierDouble, count: int) -> list[asyncio.Task]:
    """So many requests there, none of which gets a token."""
    link.update((full.route,))
    tasks = [asyncio.create_task(collect(link, replace(REQUEST, request_id=f"r{i}"))) for i in range(count)]
    await until(lambda: len(full.seen) == count)
    return tasks


async def until(condition) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


def test_a_gateway_asks_back_what_waits_while_another_has_room_and_then_rests() -> None:
    async def run() -> None:
        full, idle = VerifierDouble("a", before=forever, says=OURS.metadata()), VerifierDouble("b")
        async with linked(full, idle) as link:
            tasks = await waiting(link, full, 3)
            for _ in range(3):
                link.update(table(full, idle), interval_s=60.0)
            await until(lambda: full.asked_back)
            await until(lambda: full.heard > 4)
            assert full.asked_back == [(2, True)], "two are held up; no table can show yet that they have gone"
            assert idle.asked_back == []
            for task in tasks:
                task.cancel()

    asyncio.run(run())


def nothing_is_asked_back(says: tuple[tuple[str, str], ...], other: dict[str, int]) -> None:
    """Of a full verifier that `says` what it understands, beside an idle one that has `other` facts."""

    async def run() -> None:
        full, idle = VerifierDouble("a", before=forever, says=says), VerifierDouble("b")
        async with linked(full, idle) as link:
            tasks = await waiting(link, full, 3)
            one, two = table(full, idle)
            link.update((one, replace(two, **other)))
            heard = full.heard
            await until(lambda: full.heard > heard)
            assert full.asked_back == []
            for task in tasks:
                task.cancel()

    asyncio.run(run())


@pytest.mark.parametrize("other", [{"held_up": 1}, {"load": 4}, {"kv_slots_free": 2}, {"max_sequences": 0}])
def test_nothing_is_asked_back_while_no_other_has_room(other: dict[str, int]) -> None:
    nothing_is_asked_back(OURS.metadata(), other)


def test_a_verifier_of_an_older_version_is_not_asked() -> None:
    nothing_is_asked_back(Dialect(1, 1, BEFORE).metadata(), {})


def test_a_text_that_has_begun_is_not_asked_back_while_the_room_is_anothers() -> None:
    async def run() -> None:
        full, idle = VerifierDouble("a", before=forever, says=OURS.metadata()), VerifierDouble("b", fingerprint="g")
        async with linked(full, idle) as link:
            tasks = await waiting(link, full, 1)
            link.update(table(full, idle))
            await until(lambda: full.asked_back)
            assert full.asked_back == [(1, False)]
            for task in tasks:
                task.cancel()

    asyncio.run(run())
