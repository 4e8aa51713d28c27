"""The price floor: when it moves, and that the closed loop with drafters settles."""

import math
import random
from collections import deque

import pytest

from controller.pool_rates import Member
from controller.price_floor import BEST_EDGE_SHARE, BUSY, FIRST, SLACK, DraftSupply, PriceFloor, supply
from controller.replica_rates import Rates
from drafthouse.wire.reports import DrafterReport, VerifierReport
from tests.unit.reports import drafter_report, drafter_totals, verifier_report, verifier_totals

INTERVAL_S = 0.5
BEST_EDGE = 0.95
DEAR = 10.0  # drafters' time is worth more than any best edge
SHORT = DraftSupply(1.0, True, BEST_EDGE, DEAR)


def moved(floor: PriceFloor, *supplies: DraftSupply) -> list[float]:
    """The floor after each, every one a move's time after the last."""
    values = []
    for i, each in enumerate(supplies):
        floor.move(each, 10.0 * i, INTERVAL_S)
        values.append(floor.floor)
    return values


def test_drafters_that_keep_up_have_no_floor():
    assert moved(PriceFloor(), *[DraftSupply(0.9, True, BEST_EDGE, DEAR)] * 5) == [0.0] * 5


def test_busy_drafters_that_nobody_waits_for_have_no_floor():
    assert moved(PriceFloor(), *[DraftSupply(1.0, False, BEST_EDGE, DEAR)] * 5) == [0.0] * 5


def test_it_rises_to_what_gates_bear_and_no_further():
    values = moved(PriceFloor(), *[SHORT] * 20)
    assert values[0] == FIRST
    assert values == sorted(values)
    assert values[-1] == BEST_EDGE_SHARE * BEST_EDGE


def test_it_never_asks_for_more_than_the_drafters_time_brings_elsewhere():
    assert moved(PriceFloor(), *[DraftSupply(1.0, True, BEST_EDGE, 0.12)] * 20)[-1] == 0.12
    assert moved(PriceFloor(), *[DraftSupply(1.0, True, BEST_EDGE, 0.004)] * 20)[-1] == 0.0  # a place in a pass costs next to nothing


def test_time_at_the_bound_does_not_delay_the_fall():
    floor = PriceFloor()
    moved(floor, *[SHORT] * 100)
    floor.move(DraftSupply(0.3, True, BEST_EDGE, DEAR), 1e6, INTERVAL_S)
    assert floor.floor < 0.7 * BEST_EDGE_SHARE * BEST_EDGE


def test_it_falls_to_nothing_with_the_load():
    floor = PriceFloor()
    moved(floor, *[SHORT] * 4)
    assert moved(floor, *[DraftSupply(0.0, False, BEST_EDGE, DEAR)] * 12)[-1] == 0.0


def test_it_follows_the_bid_down_at_once():
    floor = PriceFloor()
    moved(floor, *[SHORT] * 8)
    floor.move(DraftSupply(0.9, True, 0.2, DEAR), 1e6, INTERVAL_S)
    assert floor.floor == pytest.approx(BEST_EDGE_SHARE * 0.2)


def test_a_new_controller_goes_on_with_what_the_first_verifier_was_told():
    floor = PriceFloor()
    floor.resume(0.3)
    floor.resume(0.0)
    assert floor.floor == 0.3


def test_no_move_before_the_last_one_has_shown():
    floor = PriceFloor()
    floor.move(SHORT, 0.0, INTERVAL_S)
    assert not floor.due(1.4)
    assert floor.due(1.5)


def verifier(best_edge: float = BEST_EDGE, **rates: float) -> Member[VerifierReport]:
    """Two reports a second apart."""
    known = {"step_seconds": 0.9, "wait_seconds": 0.0, "committed": 100.0, "accepted": 50.0, "verified": 200.0}
    before, after = (verifier_report(best_edge=best_edge, totals=verifier_totals(**t)) for t in ({}, known | rates))
    return Member(after, Rates(before, after, 1.0))


def drafter(load: int, busy_seconds: float = 1.0, refused: float = 0.0, **fields: float) -> Member[DrafterReport]:
    before, after = (
        drafter_report(load=load, totals=t, **fields)
        for t in (drafter_totals(), drafter_totals(busy_seconds=busy_seconds, refused=refused))
    )
    return Member(after, Rates(before, after, 1.0))


@pytest.mark.parametrize(
    ("verifiers", "drafters", "wanted"),
    [
        ([verifier()], [drafter(4)], False),
        ([verifier(wait_seconds=0.1)], [drafter(4)], True),
        ([verifier(wait_seconds=0.1)], [drafter(1)], False),  # nobody to share with
        ([verifier(verified=20.0)], [drafter(4)], True),
        ([verifier()], [drafter(4), drafter(4, refused=0.2)], True),
        ([], [drafter(4)], False),
    ],
)
def test_who_lacks_drafts(verifiers, drafters, wanted):
    assert supply(verifiers, drafters).wanted is wanted


def test_supply_measures_the_pool():
    drafters = [drafter(2, seconds_per_node=0.002), drafter(2, 0.5, seconds_per_node=0.002), Member(drafter_report("new"), None)]
    found = supply([verifier(best_edge=0.4), verifier(best_edge=0.6), verifier(best_edge=0.9)], drafters)
    assert found is not None
    assert (found.utilisation, found.best_edge) == (0.75, 0.6)
    assert found.worth == pytest.approx(150 / 1.5 * 0.002)


def utilisations(demand, load, seconds: float, lag: int, noise: float = 0.0) -> list[tuple[float, float, float]]:
    """(time, floor, utilisation reported then), once a heartbeat: drafters show a floor's effect `lag` heartbeats later.

    `demand(floor)`: drafters' busy time that all nodes above the floor need, at load 1; `load(t)` multiplies it.
    """
    random.seed(0)
    floor, history, told = PriceFloor(), [], deque([0.0] * lag, lag)
    for i in range(int(seconds / INTERVAL_S)):
        now = i * INTERVAL_S
        busy = min(1.0, load(now) * demand(max(told[0], 0.005))) * (1.0 - noise * random.random())
        if floor.due(now):
            floor.move(DraftSupply(busy, True, BEST_EDGE, DEAR), now, INTERVAL_S)
        told.append(floor.floor)
        history.append((now, floor.floor, busy))
    return history


def power(exponent: float):
    """Demand falls as floor^-exponent, from 1 at a floor of 0.05."""
    return lambda floor: (floor / 0.05) ** -exponent


def logarithm(floor: float) -> float:
    """Chains of equal edges: depth goes with the logarithm."""
    return math.log(1.0 / floor) / math.log(20.0)


@pytest.mark.parametrize("lag", [1, 2, 3])
@pytest.mark.parametrize("noise", [0.0, 0.04])
@pytest.mark.parametrize("demand", [power(0.5), power(1.0), power(2.0), logarithm], ids=["sqrt", "inverse", "square", "log"])
def test_the_loop_settles_after_the_load_goes_up_and_down(demand, lag, noise):
    up, down, end, settle_s = 10.0, 30.0, 50.0, 10.0

    def load(now: float) -> float:
        return 1.8 if up <= now < down else 0.3

    history = utilisations(demand, load, end, lag, noise)
    loaded = [(floor, busy) for now, floor, busy in history if up + settle_s <= now < down]
    assert all(SLACK * (1 - noise) <= busy <= BUSY or floor in (0.0, BEST_EDGE_SHARE * BEST_EDGE) for floor, busy in loaded)
    assert max(floor for floor, _ in loaded) <= 1.1 * min(floor for floor, _ in loaded)  # at rest
    before = [floor for now, floor, _ in history if up - 2.0 <= now < up]
    after = [floor for now, floor, _ in history if now >= down + settle_s]
    assert max(after) <= max(0.06, max(before))
    assert max(after) <= 1.1 * min(after)


def test_a_cliff_of_demand_is_met_with_ever_smaller_steps():
    """All nodes alike: no floor gives the target, so the loop must not swing far around the cliff."""
    history = utilisations(lambda floor: 1.5 if floor < 0.2 else 0.1, lambda _: 1.0, 60.0, 1)
    late = [floor for now, floor, _ in history if now >= 30.0]
    assert max(late) / min(late) < 1.5


def test_nothing_follows_from_drafters_that_have_not_told():
    assert supply([verifier()], [Member(drafter_report("new", load=3), None)]) is None
    floor = PriceFloor()
    floor.resume(0.3)
    floor.move(None, 0.0, INTERVAL_S)
    assert floor.floor == 0.3
    assert not floor.due(0.4)
