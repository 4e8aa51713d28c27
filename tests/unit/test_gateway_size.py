"""How many gateways: bounds, delays, and the loop closed over gateways whose streams stay where they are."""

import random

import pytest

from controller.cluster_goodput import measure
from controller.gateway_size import BUSY_SHARE, KEEP_SHARE, TAUGHT_S, GatewayLoad, GatewaySize, load_of
from controller.pool_sizes import PoolSizes
from drafthouse.config.autoscaling import AutoscalingConfig, GatewayBounds
from drafthouse.wire.reports import GatewayReport
from drafthouse.wire.totals import GatewayTotals
from tests.unit.reports import replica

BOUNDS = GatewayBounds(min=1, max=8, streams=100, cpu_share=0.5, loop_lag_s=0.05, up_delay_s=3.0, down_delay_s=10.0, cool_down_s=5.0)


class Pool:
    """Serve, which brings gateways `start_s` after it was told, and lets one that is to go finish for `drain_s`."""

    def __init__(self, bounds: GatewayBounds = BOUNDS, replicas: int = 1, start_s: float = 2.0, drain_s: float = 0.0) -> None:
        self.size, self._start_s, self._drain_s = GatewaySize(bounds), start_s, drain_s
        self.ordered = self.live = replicas
        self.now, self._due = 0.0, 0.0
        self.history: list[int] = []

    def second(self, streams: int = 0, cores: float = 0.0, late_s: float = 0.0) -> int:
        self.now += 1.0
        if self.now >= self._due:
            self.live = self.ordered
        told = self.size.decide(self.ordered, self.live, GatewayLoad(streams, cores, late_s), self.now)
        if told != self.ordered:
            self._due = self.now + (self._start_s if told > self.ordered else self._drain_s)
            self.ordered = told
        self.history.append(told)
        return told

    def seconds(self, count: int, streams: int = 0, cores: float = 0.0, late_s: float = 0.0) -> int:
        for _ in range(count):
            self.second(streams, cores, late_s)
        return self.ordered


def test_as_many_as_streams_need_after_cool_down_and_delay():
    pool = Pool()
    assert pool.seconds(8, streams=170) == 1
    assert pool.size.reason.startswith("rests")
    assert pool.seconds(1, streams=170) == 2
    assert pool.size.reason == "170 streams, 0.00 cores, loops 0 ms late"
    assert pool.seconds(60, streams=170) == 2


def test_at_most_twice_as_many_at_once_and_never_beyond_the_bounds():
    pool = Pool()
    pool.seconds(200, streams=5000)
    assert sorted({*pool.history}) == [1, 2, 4, 8]
    assert "8 is the most" in pool.size.reason
    assert Pool(replicas=12).seconds(1) == 8
    assert Pool(BOUNDS.model_copy(update={"min": 3})).seconds(1) == 3


def test_a_peak_shorter_than_the_delay_changes_nothing():
    pool = Pool()
    pool.seconds(20, streams=50)
    for _ in range(20):
        pool.second(streams=150)
        pool.seconds(4, streams=50)
    assert {*pool.history} == {1}


def test_the_time_of_event_loops_counts_as_well_as_streams():
    assert Pool().seconds(30, streams=10, cores=0.9) == 2
    assert Pool().seconds(30, streams=10, cores=0.4) == 1


def test_one_goes_when_the_others_have_room_for_long():
    pool = Pool(replicas=3)
    assert pool.seconds(60, streams=int(100 * 2 * KEEP_SHARE) + 1) == 3
    assert pool.seconds(11, streams=10) == 2
    assert pool.seconds(10, streams=10) == 2, "cool-down and delay begin again"
    assert pool.seconds(60, streams=10) == 1
    assert pool.seconds(60) == 1


def test_a_peak_within_the_delay_keeps_it():
    pool = Pool(replicas=2)
    for _ in range(20):
        pool.seconds(7, streams=10)
        pool.second(streams=90)
    assert {*pool.history} == {2}


def test_while_one_finishes_its_streams_no_other_goes_and_new_ones_may_come():
    pool = Pool(replicas=3, drain_s=300.0)
    assert pool.seconds(100, streams=20) == 2
    assert pool.live == 3
    assert pool.seconds(60, streams=390) == 4


def test_loops_that_are_late_bring_one_more_that_stays_at_that_load():
    """A gateway was full with 60 of the 100 streams that the bounds say."""
    pool = Pool()
    assert pool.seconds(9, streams=60, late_s=0.2) == 2
    assert pool.seconds(200, streams=60) == 2, "without a look back 60 % of one would let it go"
    assert pool.seconds(200, streams=30) == 1
    assert pool.seconds(100, streams=110) == 2, "60 each are known to be too many"
    assert pool.seconds(int(TAUGHT_S), streams=50) == 1


def test_streams_stay_so_the_least_late_gateway_counts_and_idle_ones_are_not_late():
    def report(load: int, late_s: float, share: float) -> GatewayReport:
        return GatewayReport(
            replica=replica("g", ""), load=load, capacity=256, totals=GatewayTotals(), loop_lag_s=late_s, loop_cpu_share=share
        )  # fmt: skip

    full, new = report(200, 0.3, 0.9), report(5, 0.001, 0.4)
    assert load_of([full, new]) == GatewayLoad(205, pytest.approx(1.3), 0.001)
    assert load_of([full, full]).late_s == 0.3
    assert load_of([report(3, 0.5, BUSY_SHARE / 2)]).late_s == 0.0, "others keep this machine busy"
    assert load_of([]) == GatewayLoad()


@pytest.mark.parametrize("noise", [0.0, 0.15])
@pytest.mark.parametrize("lateness", [0.0, 60.0], ids=["streams alone", "late from 60 streams on"])
def test_steps_of_load_lead_straight_to_rest(noise, lateness):
    """Streams last 20 s and stay at their gateway; new ones go to the emptiest. A gateway beyond `lateness` streams is late."""
    chance, pool = random.Random(3), Pool(start_s=6.0)
    gateways: list[list[float]] = [[]]

    def step(in_flight: float, seconds: int) -> list[int]:
        for _ in range(seconds):
            while len(gateways) < pool.live:
                gateways.append([])
            gateways[:] = [[end for end in ends if end > pool.now] for ends in gateways]
            while len(gateways) > pool.live and not gateways[-1]:
                gateways.pop()
            for _ in range(round(in_flight / 20.0 * chance.uniform(1 - noise, 1 + noise))):
                min(gateways[: pool.ordered], key=len).append(pool.now + 20.0)
            late = [0.2 if lateness and len(ends) > lateness else 0.0 for ends in gateways]
            pool.second(sum(map(len, gateways)), 0.0, min(late))
        return pool.history[-seconds:]

    for in_flight in (40, 340, 340, 60, 340, 40):
        sizes = step(in_flight, 400)
        assert len({*sizes[200:]}) == 1, f"{in_flight} in flight: at rest by half-time"
        changes = [b - a for a, b in zip(sizes, sizes[1:], strict=False) if a != b]
        assert all(change > 0 for change in changes) or all(change < 0 for change in changes), f"{in_flight}: straight, not {changes}"
        assert pool.ordered >= in_flight / (min(lateness, 100.0) or 100.0)
    assert pool.ordered <= 2


def test_gateways_are_scaled_beside_pools_of_fixed_size():
    sizes = PoolSizes(AutoscalingConfig(gateway=BOUNDS), {"gateway": 1, "verifier": 2, "drafter": 1})
    live, nothing = {"gateway": 1, "verifier": 2, "drafter": 1}, measure([], [], 0.0)
    told = [sizes.decide({"gateway": 1}, live, nothing, GatewayLoad(streams=150), float(now)) for now in range(12)]
    assert told[-1] == {"gateway": 2}
    shown = sizes.as_json(live)
    assert (shown["gateway"]["desired"], shown["gateway"]["least"], shown["gateway"]["most"]) == (2, 1, 8)
    assert shown["verifier"]["reason"] == "fixed by the configuration"
