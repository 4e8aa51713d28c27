"""Shares of the drafters' time and its price: where sessions go, who gets none, and what that says of a second."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.draft_market import NODES_A_PASS, Demand, Supply, clear
from drafthouse.policy.draft_gain import gain_per_step

SLOW_TARGET = Demand("slow", 0.02, 0.75, (1.0,) * 4, 0, 64.0, 100.0)
FAST_TARGET = Demand("fast", 0.007, 0.75, (1.0,) * 4, 0, 64.0, 100.0)
GOOD = Supply("good", 0.003, 5e-5, 5e-5, 64)
POOR = Supply("poor", 0.008, 5e-4, 5e-5, 64)
NARROW = Supply("narrow", 0.003, 2e-3, 5e-5, 64)


def placed(demands: list[Demand], supplies: list[Supply]) -> dict[str, dict[str, int]]:
    offers = clear(demands, supplies, {d.verifier: [s.drafter for s in supplies] for d in demands})
    return {verifier: {o.drafter: o.seats for o in found} for verifier, found in offers.items()}


def test_the_slow_drafter_serves_the_slow_target_alone() -> None:
    seats = placed([SLOW_TARGET, FAST_TARGET], [GOOD, POOR])
    assert seats["fast"] == {"good": 4, "poor": 0}
    assert sum(seats["slow"].values()) == 4


def test_idle_drafters_have_no_price_and_give_seats_to_those_who_may_come() -> None:
    [offer] = clear([replace(SLOW_TARGET, worths=(1.0,), spare=3)], [GOOD], {"slow": ["good"]})["slow"]
    assert (offer.seats, offer.second_price) == (4, 0.0)
    assert offer.gain > 0.5


def test_who_is_left_out_sets_the_price_and_the_worth_decides_who_that_is() -> None:
    poor, rich = replace(SLOW_TARGET, verifier="poor"), replace(SLOW_TARGET, verifier="rich", worths=(4.0,) * 4)
    offers = clear([poor, rich], [NARROW], {"poor": ["narrow"], "rich": ["narrow"]})
    assert offers["rich"][0].seats > offers["poor"][0].seats
    assert offers["poor"][0].second_price == offers["rich"][0].second_price > 0.0


def test_a_far_drafter_is_used_only_where_nothing_nearer_is_left() -> None:
    far = replace(SLOW_TARGET, round_trips={"far": 0.02})
    seats = placed([far], [GOOD, replace(GOOD, drafter="far")])
    assert seats["slow"] == {"good": 4, "far": 0}


def test_passes_that_take_longer_than_they_should_leave_fewer_seats() -> None:
    held = replace(NARROW, held=2, measured_s=0.02)
    assert placed([SLOW_TARGET], [held])["slow"]["narrow"] < placed([SLOW_TARGET], [NARROW])["slow"]["narrow"]


def test_sessions_that_would_take_more_than_they_add_are_not_placed() -> None:
    demand = replace(SLOW_TARGET, prompt_tokens=0.0, worths=(1.0,) * 6)

    def together(sessions: int) -> float:
        period_s = NARROW.pass_s + NARROW.node_s * (NODES_A_PASS * sessions - 1.0)
        return sessions * gain_per_step(demand.acceptance, demand.step_s, period_s)

    best = max(range(1, 7), key=together)
    assert 1 < best < 6
    assert placed([demand], [NARROW])["slow"]["narrow"] == best


def test_the_limit_of_sessions_and_the_pairs_hold() -> None:
    assert placed([SLOW_TARGET], [replace(GOOD, sessions=2)])["slow"]["good"] == 2
    assert clear([SLOW_TARGET], [GOOD], {}) == {"slow": []}


@given(
    sizes=st.lists(st.integers(0, 20), min_size=1, max_size=4),
    worths=st.lists(st.floats(0.5, 8.0), min_size=20, max_size=20),
    node_s=st.floats(1e-5, 5e-3),
)
def test_all_get_what_they_asked_for_or_time_has_a_price_and_order_changes_nothing(
    sizes: list[int], worths: list[float], node_s: float
) -> None:
    demands = [replace(SLOW_TARGET, verifier=f"v{i}", worths=tuple(worths[:n])) for i, n in enumerate(sizes)]
    pairs = {d.verifier: ["good"] for d in demands}
    supply = replace(GOOD, node_s=node_s)
    offers = clear(demands, [supply], pairs)
    for d in demands:
        [offer] = offers[d.verifier]
        assert 0 <= offer.seats <= len(d.worths)
        if offer.seats < len(d.worths) and offer.gain > 0.0:
            assert offer.second_price > 0.0
    assert sum(o.seats for found in offers.values() for o in found) <= supply.sessions
    shuffled = clear(demands[::-1], [supply], pairs)
    assert sum(o[0].seats for o in shuffled.values()) == pytest.approx(sum(o[0].seats for o in offers.values()), abs=4)
