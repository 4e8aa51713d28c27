"""Limits of clients: one gateway's count, the shares of several, and both together over a simulated controller."""

import asyncio
import math
import random
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deployments.gateway.client_limits import ClientLimits
from drafthouse.config.limits import RateLimits
from drafthouse.errors import LimitError, RequestError
from drafthouse.policy.client_shares import ClientShares, even_part, targets
from drafthouse.policy.client_use import ClientMeter
from drafthouse.wire.client_shares import Amounts, ClientShare, ClientUse
from drafthouse.wire.membership import Directive

NONE = math.inf
COUNTS = st.integers(0, 100)


def done(call: Coroutine[Any, Any, None]) -> None:
    """Of what has no cause to wait."""
    with pytest.raises(StopIteration):
        call.send(None)


class Cluster:
    """Gateways that report every half second to one controller; time goes on in tenths of a second."""

    def __init__(self, gateways: int, **limits: int) -> None:
        self.now, self.away = 1000.0, False
        self.shares = ClientShares()
        self.gateways = [ClientLimits(lambda client: RateLimits(**limits), lambda: self.now, 0.0) for _ in range(gateways)]
        for _ in range(2):
            self.report()

    def report(self) -> None:
        for i, gateway in enumerate(self.gateways):
            if not self.away:
                self.shares.observe(f"g{i}", gateway.uses())
                gateway.directed(Directive(0.5, gateways=len(self.gateways), shares=self.shares.answer(f"g{i}")))

    def tick(self, ticks: int = 1) -> None:
        for _ in range(ticks):
            self.now += 0.1
            if round(self.now * 10) % 5 == 0:
                self.report()

    def ask(self, gateway: int, prompt: int = 10, output: int = 10) -> bool:
        """Whether a request passes; it ends at once, having generated all."""
        request = self.gateways[gateway].begin("client")
        try:
            done(request.enter())
            done(request.charge(prompt, output, 1))
        except LimitError:
            return False
        request.generated(output)
        request.end()
        return True


@pytest.mark.parametrize("weights", [(1,), (1, 1), (9, 1), (1, 0, 0, 0), (4, 3, 2, 1)])
def test_all_gateways_together_let_through_what_the_limit_says(weights: tuple[int, ...]) -> None:
    """Each minute of three, at twenty requests a second for a limit of 120 a minute, within 10 %, however they are spread."""
    it, dice = Cluster(len(weights), requests_per_minute=120), random.Random(7)
    for minute in range(3):
        passed = 0
        for _ in range(600):
            it.tick()
            passed += sum(it.ask(dice.choices(range(len(weights)), weights)[0]) for _ in range(2))
        assert 108 <= passed <= 132, minute


def test_a_client_that_moves_from_gateway_to_gateway_finds_one_limit() -> None:
    it = Cluster(3, requests_per_minute=120)
    passed = 0
    for tick in range(1800):
        it.tick()
        passed += it.ask(tick // 70 % 3)
    assert 0.9 * 360 <= passed <= 1.1 * 360


@pytest.mark.parametrize(("prompt", "output"), [(10, 10), (200, 300), (2000, 3000)])
def test_tokens_too_and_requests_that_are_large_for_an_even_part(prompt: int, output: int) -> None:
    """12,000 tokens a minute at four gateways: the largest request here is more than a gateway's even part."""
    it, dice, tokens = Cluster(4, tokens_per_minute=12_000), random.Random(3), 0
    for _ in range(1800):
        it.tick()
        tokens += (prompt + output) * sum(it.ask(dice.randrange(4), prompt, output) for _ in range(3))
    fits = 12_000 // (prompt + output) * (prompt + output)
    assert 0.9 * 3 * fits <= tokens <= 1.1 * 36_000


@pytest.mark.parametrize("asked", [0, 1])
def test_a_limit_of_less_than_one_for_each_gateway_is_granted_where_it_is_asked_for(asked: int) -> None:
    it = Cluster(2, requests_per_minute=1)
    passed = 0
    for _ in range(1200):
        it.tick()
        passed += it.ask(asked)
    assert 1 <= passed <= 3, "in two minutes"


@pytest.mark.parametrize("asked", [0, 1])
def test_one_stream_at_a_time_runs_at_the_gateway_that_is_asked(asked: int) -> None:
    it, passed = Cluster(2, streams=1), 0
    for _ in range(200):
        it.tick()
        passed += it.ask(asked)
    assert passed > 100


def test_streams_at_once_are_counted_together() -> None:
    it = Cluster(2, streams=6)
    running = []
    for tick in range(200):
        it.tick()
        request = it.gateways[tick % 2].begin("client")
        try:
            done(request.enter())
            done(request.charge(1, 1, 1))
        except LimitError:
            continue
        running.append(request)
    assert len(running) == 6
    running.pop(0).end()
    it.tick(20)
    assert it.ask(0) or it.ask(1)


def test_while_the_controller_is_away_the_last_shares_hold() -> None:
    it = Cluster(2, requests_per_minute=120)
    for _ in range(100):
        it.tick()
        it.ask(0)
    it.away = True
    passed = 0
    for _ in range(1800):
        it.tick()
        passed += it.ask(0) + it.ask(1)
    assert 0.9 * 360 <= passed <= 1.1 * 360, "three minutes"


@example([(2, 1, 1), (1, 4, 1), (2, 5, 2)], 3)  # a gateway's use comes after the round's targets were made
@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 40), st.integers(0, 12)), max_size=60), st.integers(3, 60))
def test_no_minute_has_more_than_the_limit_once_the_controller_has_answered(steps: list[tuple[int, int, int]], limit: int) -> None:
    it, times = Cluster(3, requests_per_minute=limit), []
    it.tick(15)  # each gateway has had an answer
    for gateway, ticks, asks in steps:
        it.tick(ticks)
        times += [it.now for _ in range(asks) if it.ask(gateway)]
    for begin in times:
        assert sum(begin <= t < begin + 59.99 for t in times) <= limit


AMOUNTS = st.builds(Amounts, COUNTS, COUNTS, COUNTS)
USES = st.lists(st.builds(lambda used, wanted, largest: ClientUse(LIMITS, used, wanted, largest), AMOUNTS, AMOUNTS, COUNTS), min_size=1)
LIMITS = Amounts(50.0, 70.0, 5.0)


@given(USES)
def test_targets_add_up_to_the_limit_or_to_the_use(uses: list[ClientUse]) -> None:
    for name in ("requests", "tokens", "streams"):
        used = sum(getattr(use.used, name) for use in uses)
        given_out = sum(getattr(target, name) for target in targets(LIMITS, uses))
        assert given_out == pytest.approx(max(used, getattr(LIMITS, name)), abs=1e-6)


def test_without_a_limit_a_share_is_without_one() -> None:
    unlimited = Amounts(NONE, 10.0, NONE)
    shares = ClientShares()
    for gateway in "ab":
        shares.observe(gateway, {"client": ClientUse(unlimited, Amounts(5.0, 4.0, 1.0), Amounts(1.0, 1.0, 1.0))})
    assert shares.answer("a")["client"].share.requests == NONE
    assert even_part(unlimited, 4) == Amounts(NONE, 2.0, NONE)


def test_a_gateway_that_is_gone_leaves_its_share_to_the_others() -> None:
    shares = ClientShares()
    for _ in range(3):
        for gateway, used in (("a", 60.0), ("b", 20.0)):
            shares.observe(gateway, {"client": ClientUse(Amounts(100.0, NONE, NONE), Amounts(used), Amounts(1.0, 1.0, 1.0))})
            shares.answer(gateway)
    assert shares.answer("a")["client"] == ClientShare(Amounts(70.0, NONE, NONE), Amounts(20.0))
    shares.remove("b")
    assert shares.answer("a")["client"] == ClientShare(Amounts(100.0, NONE, NONE), Amounts())


def test_a_client_that_asks_little_keeps_even_parts() -> None:
    shares, limits = ClientShares(), Amounts(100.0, NONE, NONE)
    for gateway, used in (("a", 25.0), ("b", 3.0)):
        shares.observe(gateway, {"client": ClientUse(limits, Amounts(used), Amounts(1.0, 1.0, 1.0))})
    assert shares.answer("a") == {}
    shares.observe("a", {"client": ClientUse(limits, Amounts(26.0), Amounts(1.0, 1.0, 1.0))})
    assert shares.answer("a")["client"] == ClientShare(Amounts(50.0, NONE, NONE), Amounts(3.0))


def test_a_request_gives_back_what_it_has_not_generated() -> None:
    it = Cluster(1, tokens_per_minute=1000)
    request = it.gateways[0].begin("client")
    done(request.enter())
    done(request.charge(100, 800, 1))
    assert not it.ask(0, 50, 100)
    request.generated(20)
    request.end()
    request.end()
    it.tick(5)
    assert request.headers()["x-ratelimit-remaining-tokens"] == "880"
    assert it.ask(0, 80, 800)


def test_a_refused_request_costs_nothing_and_says_when_to_come_again() -> None:
    it = Cluster(1, requests_per_minute=10, tokens_per_minute=100)
    assert it.ask(0, 10, 80)
    it.tick(100)
    request = it.gateways[0].begin("client")
    done(request.enter())
    with pytest.raises(LimitError, match="100 tokens a minute are allowed") as caught:
        done(request.charge(10, 10, 1))
    assert caught.value.retry_after_s == pytest.approx(50.0, abs=0.2)
    assert request.headers()["x-ratelimit-remaining-requests"] == "9"
    assert request.headers()["x-ratelimit-reset-requests"] == "60s", "what was given back leaves no trace but its slot"
    it.tick(501)
    assert it.ask(0, 10, 10)


def test_more_than_a_minutes_tokens_can_never_pass() -> None:
    it = Cluster(1, tokens_per_minute=100)
    request = it.gateways[0].begin("client")
    done(request.enter())
    with pytest.raises(RequestError, match="101 tokens are asked for, prompt included, and 100 a minute are allowed"):
        done(request.charge(1, 100, 1))


def test_what_lacks_room_in_its_gateways_share_alone_waits_for_the_share_to_follow() -> None:
    """The first request of a client wants more than an even part of four; the controller gives it."""

    async def run() -> None:
        limits = ClientLimits(lambda client: RateLimits(tokens_per_minute=1000))
        limits.directed(Directive(0.5, gateways=4))
        request = limits.begin("client")
        await request.enter()
        charging = asyncio.create_task(request.charge(400, 500, 1))
        await asyncio.sleep(0)
        (use,) = limits.uses().values()
        assert not charging.done()
        assert use.largest == 900
        limits.directed(Directive(0.5, gateways=4, shares={"client": ClientShare(Amounts(NONE, 950.0, NONE))}))
        await charging
        second = limits.begin("client")
        await second.enter()
        with pytest.raises(LimitError) as caught:
            await second.charge(400, 500, 1)
        assert 59.0 < caught.value.retry_after_s <= 60.0

    asyncio.run(run())


def test_an_idle_client_is_forgotten() -> None:
    it = Cluster(2, requests_per_minute=10)
    assert it.ask(0)
    assert it.gateways[0].uses()
    it.tick(1300)
    assert [gateway.uses() for gateway in it.gateways] == [{}, {}]
    assert it.shares.answer("g0") == {}


def test_who_asks_little_again_holds_even_parts_before_shares_end() -> None:
    shares, limits = ClientShares(), Amounts(90.0, NONE, NONE)

    def report(used: float) -> None:
        for gateway, amount in (("a", used), ("b", 0.0), ("c", 0.0)):
            shares.observe(gateway, {"client": ClientUse(limits, Amounts(amount), Amounts(amount, 0.0, 0.0))} if amount else {})

    for used in (60.0, 60.0, 60.0):
        report(used)
        held = [shares.answer(gateway)["client"].share.requests for gateway in "abc"]
    assert held[0] > 80.0
    report(0.0)
    assert [shares.answer(gateway)["client"].share.requests for gateway in "abc"] == [30.0, 30.0, 30.0]
    assert [shares.answer(gateway) for gateway in "abc"] == [{}, {}, {}]


def test_a_meter_counts_one_minute() -> None:
    meter = ClientMeter(Amounts(3.0, NONE, NONE))
    for now in (10.0, 30.0, 50.0):
        meter.charge(now, requests=1.0)
    share = ClientShare(Amounts(3.0, NONE, NONE))
    assert meter.lacks(share, Amounts(requests=1.0), 60.0) == ("requests", 10.0)
    assert meter.lacks(share, Amounts(requests=1.0), 70.0) is None
    assert meter.used(95.0).requests == 1.0
    assert meter.lacks(ClientShare(Amounts(1.0, NONE, NONE)), Amounts(requests=1.0), 95.0) == ("requests", 1.0), "another's share follows"
