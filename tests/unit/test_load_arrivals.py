"""Traces of the load bench: the same for everyone, at the rate asked for."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drafthouse.errors import ConfigError
from simulator.arrivals import MAX_REQUESTS, affordable_seconds, poisson, requests_in


def test_a_trace_depends_on_its_arguments_alone() -> None:
    assert poisson(3.0, 50, 10, (4, 9), (0, 1, 2)) == poisson(3.0, 50, 10, (4, 9), (0, 1, 2))
    assert poisson(3.0, 50, 10, (4, 9), (0, 1, 2)) != poisson(3.0, 50, 10, (4, 9), (0, 1, 3))


def test_gaps_are_exponential_at_the_rate() -> None:
    trace = poisson(8.0, 20_000, 10, (4, 9), (0,))
    gaps = [b.at_s - a.at_s for a, b in zip(trace, trace[1:], strict=False)]
    mean = sum(gaps) / len(gaps)
    assert mean == pytest.approx(1 / 8.0, rel=0.03)
    deviation = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))
    assert deviation == pytest.approx(mean, rel=0.03)  # as only an exponential's is


def test_what_requests_ask_for_is_spread_over_all_there_is() -> None:
    trace = poisson(8.0, 1000, 10, (4, 9), (0,))
    assert {a.prompt for a in trace} == set(range(10))
    assert {a.tokens for a in trace} == set(range(4, 10))
    assert len({a.seed for a in trace}) > 990
    assert trace[0].at_s == 0.0


@pytest.mark.parametrize(("rate", "seconds"), [(0.1, 5.0), (1e4, 60.0)])
def test_impossible_traces_name_the_option(rate: float, seconds: float) -> None:
    with pytest.raises(ConfigError, match="--seconds"):
        requests_in(rate, seconds)


@given(st.floats(0.01, 1e4), st.floats(0.01, 1e4))
def test_a_possible_trace_is_neither_empty_nor_too_long(rate: float, seconds: float) -> None:
    if 1 <= rate * seconds <= MAX_REQUESTS:
        assert 1 <= requests_in(rate, seconds) <= MAX_REQUESTS


@given(st.floats(1.0, 100.0), st.floats(0.0, 1000.0), st.integers(1, 100), st.floats(0.0, 3.0))
def test_shortened_traces_end_in_time(wanted: float, left_s: float, blocks: int, idle_s: float) -> None:
    seconds = affordable_seconds(wanted, left_s, blocks, idle_s)
    assert 1.0 <= seconds <= wanted
    assert seconds == 1.0 or blocks * (seconds + idle_s) <= left_s * (1 + 1e-9)


def test_without_a_budget_nothing_is_shortened() -> None:
    assert affordable_seconds(60.0, math.inf, 100, 1.5) == 60.0
