"""Latency models: interpolation between knots, correction online, and curves from files."""

import json
import math
import pathlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drafthouse.errors import ConfigError
from drafthouse.policy.latency import CURVES, Curve, MeasuredLatency, ScaledCurve, load_curve

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
        if tokens <= latency.tokens[-1] and abs(seconds - before) > 1e-9:
            assert (after - before) * (seconds - before) >= 0.0, "away from what was observed"


def test_it_learns_a_device_that_has_become_slower() -> None:
    latency = MeasuredLatency(KNOTS)
    for _ in range(200):
        for tokens in (1, 4, 8, 16):
            latency.observe(tokens, 0, 2 * KNOTS[tokens])
    for tokens in KNOTS:
        assert latency.seconds(tokens, 0) == pytest.approx(2 * KNOTS[tokens], rel=0.01)


def test_an_observation_between_two_knots_moves_only_these() -> None:
    latency = MeasuredLatency(KNOTS)
    latency.observe(5, 0, 0.030)
    moved = [n for n, time in zip(latency.tokens, latency.times, strict=True) if time != KNOTS[n]]
    assert moved == [4, 8]
    assert latency.times[1] - KNOTS[4] > latency.times[2] - KNOTS[8], "the nearer one moves more"


def test_one_outlier_does_not_spoil_the_curve() -> None:
    latency = MeasuredLatency(KNOTS)
    latency.observe(4, 0, 60.0)  # a step of a minute: the process was stopped
    most = 1 + MeasuredLatency.RATE * (MeasuredLatency.CLIP - 1)
    assert KNOTS[4] < latency.seconds(4, 0) <= KNOTS[4] * most * (1 + 1e-9)
    latency = MeasuredLatency(KNOTS)
    latency.observe(4, 0, 0.0)
    assert latency.seconds(4, 0) >= KNOTS[4] * (1 - MeasuredLatency.RATE)


def test_the_share_of_cached_tokens_is_not_put_on_the_knots() -> None:
    latency = MeasuredLatency(KNOTS, per_kv_token=1e-5)
    latency.observe(4, 1000, KNOTS[4] + 0.01)
    assert latency.seconds(4, 0) == pytest.approx(KNOTS[4])


def test_no_knots_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one point"):
        MeasuredLatency({})


def test_curves_of_the_package_load_and_scale() -> None:
    names = [path.stem for path in CURVES.glob("*.json")]
    assert "llama-70b-4xh100" in names
    for name in names:
        curve = load_curve(name)
        assert curve.source
        assert ScaledCurve(curve, 3.0).seconds(7, 100) == pytest.approx(3 * curve.seconds(7, 100))
    assert load_curve("llama-70b-4xh100").seconds(10, 1000) == pytest.approx(0.0183 + 10 * 0.064e-3 + 1000 * 6.2e-8)


def test_a_curve_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(ConfigError, match="no curve 'llama'; the package has .*llama-8b-1xh100"):
        load_curve("llama")


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "[1, 2]",
        "3",
        json.dumps(GOOD | {"unknown": 1}),
        json.dumps({"name": "x"}),
        json.dumps(GOOD | {"base_ms": "five"}),
        json.dumps(GOOD | {"per_token_ms": None}),
        json.dumps(GOOD | {"base_ms": 0}),
        json.dumps(GOOD | {"per_token_ms": -1}),
        json.dumps(GOOD | {"per_kv_token_ms": float("nan")}),
    ],
)
def test_a_bad_curve_file_is_a_config_error_that_names_it(tmp_path: pathlib.Path, text: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="bad.json"):
        load_curve(str(path))


def test_a_curve_from_a_file(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(GOOD), encoding="utf-8")
    assert load_curve(str(path)) == Curve(**GOOD)
