"""A verifier that says nothing is left; one that is slow, or whose client or gateway is, is not."""

import asyncio
import time
from contextlib import aclosing

import pytest

from drafthouse.wire import silence
from drafthouse.wire.silence import SILENT_BEATS
from tests.unit.linked import REQUEST, collect, linked, tokens_of
from tests.unit.verifier_double import VerifierDouble, forever, text_of


def test_a_silent_verifier_is_left_though_it_is_routed(monkeypatch):
    monkeypatch.setattr(silence, "BEAT_S", 0.01)

    async def run():
        silent, heir = VerifierDouble("a", before=forever), VerifierDouble("b", load=7)
        async with linked(silent, heir) as link:
            assert tokens_of(await asyncio.wait_for(collect(link), 2.0)) == text_of(REQUEST)
            assert link.failovers == 1
            await asyncio.wait_for(silent.cancelled.wait(), 2.0)
        assert heir.seen[0].attempt == 2

    asyncio.run(run())


def test_a_verifier_that_has_nothing_new_but_says_so_is_not_left(monkeypatch):
    monkeypatch.setattr(silence, "BEAT_S", 0.02)

    async def beats(index, served):
        for _ in range(3 * SILENT_BEATS):
            await served.beat()
            await asyncio.sleep(0.02)

    async def run():
        slow, other = VerifierDouble("a", before=lambda *at: beats(*at) if at[0] == 2 else asyncio.sleep(0)), VerifierDouble("b", load=7)
        async with linked(slow, other) as link:
            assert tokens_of(await collect(link)) == text_of(REQUEST)
        assert other.seen == []

    asyncio.run(run())


@pytest.mark.parametrize("slow", ["the client", "this process"])
def test_nobody_is_blamed_for_another_that_is_slow(monkeypatch, slow):
    """A client that does not read, or a gateway that gets no CPU, is not the verifier's silence."""
    monkeypatch.setattr(silence, "BEAT_S", 0.01)

    async def run():
        verifier, other = VerifierDouble("a", before=lambda *_: asyncio.sleep(0.01)), VerifierDouble("b", load=7)
        async with linked(verifier, other) as link, aclosing(link.generate(REQUEST)) as stream:
            async for _ in stream:
                if slow == "the client":
                    await asyncio.sleep(2 * SILENT_BEATS * 0.01)
                else:
                    time.sleep(2 * SILENT_BEATS * 0.01)  # the loop itself is held up
        assert other.seen == []

    asyncio.run(run())
