"""Gate, probes and worth of sessions: no swinging at the boundary, bounded probing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drafthouse.policy.speculation_gate import (
    FIRST_BEST_EDGE,
    FORGET_S,
    HANDLING_S,
    HOLD_S,
    PROBE_SHARE,
    PROBE_STEPS,
    REOPEN_SHARE,
    ProbeBudget,
    SessionWorth,
    SpeculationGate,
)


def test_closes_after_the_hold_and_opens_at_once_with_a_margin() -> None:
    gate = SpeculationGate()
    for now in (0.0, 0.4 * HOLD_S, 0.9 * HOLD_S):
        gate.observe(FIRST_BEST_EDGE + 0.01, now)
        assert gate.open
    gate.observe(FIRST_BEST_EDGE - 0.01, 0.95 * HOLD_S)
    gate.observe(FIRST_BEST_EDGE + 0.01, HOLD_S)
    assert gate.open, "it was not dear all the while"
    gate.observe(FIRST_BEST_EDGE + 0.01, 2.1 * HOLD_S)
    assert not gate.open
    gate.observe(FIRST_BEST_EDGE * (REOPEN_SHARE + 0.01), 3.0)
    assert not gate.open
    gate.observe(FIRST_BEST_EDGE * (REOPEN_SHARE - 0.01), 3.0)
    assert gate.open


@given(st.floats(0.5, 2.0), st.floats(0.0, 0.2))
def test_a_price_that_speculation_raises_does_not_swing_the_gate(plain: float, gain: float) -> None:
    """Open, goodput and so the price are higher by the gain; closed, they fall back: at most one change ever comes of it."""
    gate, now, changes = SpeculationGate(), 0.0, 0
    for _ in range(400):
        before = gate.open
        gate.observe(plain * (1.0 + gain) if gate.open else plain, now)
        changes += gate.open != before
        now += 0.02
    assert changes <= 1


def test_the_bid_rises_at_once_and_sinks_slowly() -> None:
    gate = SpeculationGate()
    gate.observe_edge(0.5)
    assert 0.9 < gate.best_edge < FIRST_BEST_EDGE
    for _ in range(300):
        gate.observe_edge(0.5)
    assert gate.best_edge == pytest.approx(0.5, abs=0.01)
    gate.observe_edge(0.9)
    assert gate.best_edge == 0.9


def test_without_any_drafter_the_bid_is_forgotten_in_time() -> None:
    gate = SpeculationGate()
    for _ in range(300):
        gate.observe_edge(0.2)
    sunk = gate.best_edge
    gate.drafters(0, 0.0)
    gate.drafters(0, 0.9 * FORGET_S)
    gate.drafters(1, 0.95 * FORGET_S)
    gate.drafters(0, FORGET_S)
    gate.drafters(0, 1.9 * FORGET_S)
    assert gate.best_edge == sunk, "one was there in between"
    gate.drafters(0, 2.0 * FORGET_S)
    assert gate.best_edge == FIRST_BEST_EDGE


@given(st.lists(st.integers(1, 20), min_size=1, max_size=20))
def test_probes_take_their_share_of_steps_at_most(lengths: list[int]) -> None:
    """Probes begin as soon as they may and run as long as they like, within the budget."""
    budget, steps, probing = ProbeBudget(), 0, 0
    for length in lengths:
        while not budget.full:
            budget.step(False)
            steps += 1
        for _ in range(length):
            budget.step(True)
            steps, probing = steps + 1, probing + 1
            if budget.spent:
                break
    assert probing <= PROBE_SHARE * steps + PROBE_STEPS + 1


def test_a_session_pays_by_its_recent_worth_against_what_handling_costs() -> None:
    worth = SessionWorth()
    assert worth.pays(100.0)
    for _ in range(120):
        worth.observe(0.0)
    assert not worth.pays(100.0)
    for _ in range(20):
        worth.observe(0.5)
    assert worth.pays(100.0)
    assert not worth.pays(1.0 / HANDLING_S), "a whole token a step, and it brings half of one"
