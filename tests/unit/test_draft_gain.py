"""What a session brings by passes and distance."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drafthouse.policy.draft_gain import gain_per_step


def test_levels_below_a_commit_that_lands_in_the_tree() -> None:
    assert gain_per_step(0.5, 0.03, 0.01) == pytest.approx(0.5 * (0.5 + 0.25))
    assert gain_per_step(0.5, 0.01, 0.01) == 0.0
    assert gain_per_step(0.0, 0.03, 0.01) == 0.0


def test_a_round_trip_of_a_step_costs_a_level() -> None:
    assert gain_per_step(0.5, 0.03, 0.01, 0.03) == pytest.approx(0.5 * gain_per_step(0.5, 0.03, 0.01))


def test_what_lies_farther_than_the_deepest_tree_brings_nothing() -> None:
    assert gain_per_step(0.9, 0.01, 0.001, 0.15) > 0.0
    assert gain_per_step(0.9, 0.01, 0.001, 0.16) == 0.0


@given(a=st.floats(0.0, 1.0), step=st.floats(1e-3, 1.0), period=st.floats(1e-4, 1.0), more=st.floats(1.0, 5.0), trip=st.floats(0.0, 0.1))
def test_slower_and_farther_never_bring_more(a: float, step: float, period: float, more: float, trip: float) -> None:
    gain = gain_per_step(a, step, period)
    assert 0.0 <= gain_per_step(a, step, period * more) <= gain * (1 + 1e-9)
    assert gain_per_step(a, step, period, trip) <= gain * (1 + 1e-9)
