"""Goodput: tokens per busy second of the recent past, whatever the length of the steps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drafthouse.policy.goodput import HORIZON_S, GoodputMeter


def test_starts_at_the_prior_and_leaves_it_within_the_horizon() -> None:
    meter = GoodputMeter(30.0)
    assert meter.rate == pytest.approx(30.0)
    for _ in range(round(5 * HORIZON_S / 0.01)):
        meter.observe(2, 0.01, 100.0)
    assert meter.rate == pytest.approx(200.0, rel=0.02)


def test_a_change_of_load_shows_within_a_few_horizons_and_not_at_once() -> None:
    meter = GoodputMeter(100.0)
    for _ in range(400):
        meter.observe(1, 0.01, 100.0)
    meter.observe(10, 0.01, 100.0)
    assert 100.0 < meter.rate < 120.0, "one lucky step changes little"
    for _ in range(400):
        meter.observe(5, 0.01, 100.0)
    assert meter.rate == pytest.approx(500.0, rel=0.05)


@given(st.floats(0.1, 1e4), st.lists(st.tuples(st.integers(0, 50), st.floats(1e-4, 5.0)), max_size=40))
def test_lies_between_the_slowest_and_the_fastest_that_it_saw(prior: float, steps: list[tuple[int, float]]) -> None:
    """Weighted averages of rates; decay within a step moves the weights, by at most the step itself."""
    meter = GoodputMeter(prior)
    for tokens, seconds in steps:
        meter.observe(tokens, seconds, 100.0)
    rates = [prior, *(tokens / seconds for tokens, seconds in steps)]
    assert min(rates) * (1 - 1e-9) - 1e-9 <= meter.rate <= max(rates) * (1 + 1e-9) + 1e-9


@given(st.integers(1, 20), st.integers(1, 50))
def test_the_same_rate_in_long_or_short_steps_is_the_same_goodput(tokens: int, parts: int) -> None:
    whole, split = GoodputMeter(tokens / 0.1), GoodputMeter(tokens / 0.1)
    for _ in range(20):
        whole.observe(tokens * parts, 0.1 * parts, 100.0)
        for _ in range(parts):
            split.observe(tokens, 0.1, 100.0)
    assert whole.rate == pytest.approx(split.rate)


def test_a_step_of_no_time_is_harmless() -> None:
    meter = GoodputMeter(10.0)
    meter.observe(0, 0.0, 100.0)
    assert meter.rate == pytest.approx(10.0)
