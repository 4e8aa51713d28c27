"""Latency models: interpolation between knots, and correction online."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drafthouse.policy.latency import Curve, MeasuredLatency, ScaledCurve

KNOTS = {1: 0.010, 4: 0.016, 8: 0.012, 16: 0.020}
GOOD: dict[str, Any] = {"name": "x", "source": "a test", "base_ms": 5.0, "per_token_ms": 0.1, "per_kv_token_ms": 0.0}
knots = st.dictionaries(st.integers(1, 128), st.floats(1e-4, 1.0), min_size=1, max_size=8)


def test_between_knots_it_is_linear_and_beyond_the_last_it_goes_on() -> None:
    latency = MeasuredLatency(KNOTS, per_kv_token=1e-6)
    for tokens, seconds in [(0, 0.010), (1, 0.010), (2, 0.012), (4, 0.016), (6, 0.014), (8, 0.012), (12, 0.016), (24, 0.028)]:
        assert latency.seconds(tokens, 0) == pytest.approx(seconds), tokens
        assert latency.seconds(tokens, 2000) == pytest.approx(seconds + 0.002), tokens


@given(knots, st.integers(0, 2000))
def test_never_outside_the_knots_between_them_and_never_below_the_last_beyond(points: dict[int, float], tokens: int) -> None:
    seconds = MeasuredLatency(points).seconds(tokens, 0)
    if tokens > max(points):
        assert seconds >= points[max(points)], "a dip at the end must not go on below zero"
    else:
        assert min(points.values()) * (1 - 1e-9) <= seconds <= max(points.values()) * (1 + 1e-9)


@given(knots, st.lists(st.tuples(st.integers(1, 600), st.floats(0.0, 100.0)), max_size=20))
def test_observations_keep_it_positive_and_move_it_the_right_way(points: dict[int, float], seen: list[tuple[int, float]]) -> None:
    latency = MeasuredLatency(points)
    for tokens, seconds in seen:
        before = latency.seconds(tokens, 0)
        latency.observe(tokens, 0, seconds)
        after = latency.seconds(tokens, 0)
        assert 0.0 < after < math.inf
        if abs(seconds - before) > 1e-9:
            assert (after - before) * (seconds - before) >= 0.0, "away from what was observed"


@given(knots, st.integers(0, 200), st.integers(0, 200), st.integers(0, 10_000), st.lists(st.integers(1, 150), max_size=5))
def test_the_vector_says_what_single_calls_say(points: dict[int, float], first: int, count: int, kv: int, seen: list[int]) -> None:
    measured = MeasuredLatency(points, 1e-6)
    for tokens in seen:
        measured.observe(tokens, 0, 0.02)
    for latency in (measured, Curve(**GOOD | {"per_kv_token_ms": 1e-3}), ScaledCurve(Curve(**GOOD), 3.0)):
        times = latency.times(first, first + count, kv)
        assert times.tolist() == pytest.approx([latency.seconds(n, kv) for n in range(first, first + count + 1)])


def test_a_machine_that_is_slower_as_a_whole_is_learned_within_tens_of_steps_at_all_counts() -> None:
    latency = MeasuredLatency(KNOTS, 1e-6)
    for _ in range(60):
        latency.observe(4, 1000, 2 * (KNOTS[4] + 0.001))
    for tokens in KNOTS:  # 1, 8 and 16 tokens were never seen
        assert latency.seconds(tokens, 500) == pytest.approx(2 * (KNOTS[tokens] + 0.0005), rel=0.1), tokens


def test_the_shape_is_learned_where_it_differs_and_the_rest_stays() -> None:
    """8 tokens take as long as 16: a dip that is no longer there."""
    latency = MeasuredLatency(KNOTS)
    truth = KNOTS | {8: 0.020}
    for _ in range(2000):
        for tokens in truth:
            latency.observe(tokens, 0, truth[tokens])
    for tokens in truth:
        assert latency.seconds(tokens, 0) == pytest.approx(truth[tokens], rel=0.02), tokens


@given(st.lists(st.tuples(st.integers(1, 64), st.floats(1e-3, 1.0)), max_size=60))
def test_corrections_of_neighbours_never_part(seen: list[tuple[int, float]]) -> None:
    """A flat profile stays without steps of more than one observation's worth, whatever single counts say."""
    latency = MeasuredLatency(dict.fromkeys(range(1, 65), 0.01))
    for tokens, seconds in seen:
        latency.observe(tokens, 0, seconds)
        times = np.log(latency.times(1, 64, 0))
        octaves = np.diff(np.log2(np.arange(1, 65)))
        most = latency.observations * latency.KNOT_RATE * latency.CLIP / latency.REACH
        assert (np.abs(np.diff(times)) <= most * octaves + 1e-12).all()


def test_one_outlier_does_not_spoil_the_curve() -> None:
    most = 1.5 ** (MeasuredLatency.SCALE_RATE + MeasuredLatency.KNOT_RATE)
    for seconds in (60.0, 0.0):  # the process was stopped; the clock did not move
        latency = MeasuredLatency(KNOTS)
        latency.observe(4, 0, seconds)
        assert 1 / most * 0.999 <= latency.seconds(4, 0) / KNOTS[4] <= most * 1.001


def test_preempted_steps_hardly_move_it() -> None:
    """One step in ten takes ten times as long: the mean would be 1.9 times the median."""
    latency = MeasuredLatency(KNOTS)
    for step in range(1000):
        latency.observe(4, 0, KNOTS[4] * (10 if step % 10 == 0 else 1))
    assert latency.seconds(4, 0) == pytest.approx(KNOTS[4], rel=0.1)


def test_the_online_error_is_that_of_the_last_hundred_steps() -> None:
    latency = MeasuredLatency(KNOTS)
    assert latency.online_error == 0.0
    latency.observe(4, 0, 2 * KNOTS[4])
    assert latency.online_error == pytest.approx(0.5)
    for _ in range(1000):
        latency.observe(4, 0, 2 * KNOTS[4])
    assert latency.online_error < 0.01, "it has learned"
    latency.observe(4, 0, 1e-6)
    assert latency.online_error == pytest.approx(0.01, abs=0.002), "each error counts 1 at most"


def test_the_share_of_cached_tokens_is_no_error() -> None:
    latency = MeasuredLatency(KNOTS, per_kv_token=1e-5)
    latency.observe(4, 1000, KNOTS[4] + 0.01)
    assert latency.seconds(4, 0) == pytest.approx(KNOTS[4])


def test_no_knots_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one point"):
        MeasuredLatency({})
