"""The price of one more node: finite, never negative, and what the curve says."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drafthouse.policy.latency import Curve
from drafthouse.policy.selection import PRICE_SPAN, price, select
from tests.unit.latencies import Table, tables


@given(tables(), st.floats(0.0, 1e6), st.integers(0, 100), st.integers(0, 100_000))
def test_finite_and_never_negative_also_at_no_tokens(latency: Table, goodput: float, tokens: int, kv: int) -> None:
    for n in (0, tokens):
        assert math.isfinite(price(n, kv, goodput, latency))
        assert price(n, kv, goodput, latency) >= 0.0


@given(st.floats(0.0, 1e4), st.integers(0, 600), st.floats(0.1, 100.0), st.floats(0.0, 2.0))
def test_a_line_costs_its_slope_everywhere(goodput: float, tokens: int, base_ms: float, per_token_ms: float) -> None:
    line = Curve("line", "", base_ms, per_token_ms, 1e-5)
    assert price(tokens, 1000, goodput, line) == pytest.approx(goodput * per_token_ms / 1e3, rel=1e-6, abs=1e-6)


def test_a_flat_curve_is_free_and_a_step_is_shared_by_what_fits_on_it() -> None:
    assert price(5, 0, 1e3, Table([0.01])) == 0.0
    stepped = Table([0.010] * 9 + [0.018] * 200)  # up to 8 tokens, then one step that lasts
    assert price(4, 0, 100.0, stepped) == 0.0, "there is room before the step"
    assert price(8, 0, 100.0, stepped) == pytest.approx(100.0 * 0.008 / PRICE_SPAN)


@given(tables(), st.floats(0.0, 500.0), st.integers(1, 20))
def test_selection_never_takes_all_of_a_span_of_nodes_below_the_price(latency: Table, goodput: float, tokens: int) -> None:
    """The price is a lower bound of what nodes cost on average: none of up to PRICE_SPAN nodes below it are worth verifying."""
    floor = price(tokens, 0, goodput, latency)
    below = [floor * 0.99] * PRICE_SPAN
    if floor * 0.99 <= 1.0 and floor > 1e-9:
        assert not len(select(below, tokens, 0, 0, goodput, latency, PRICE_SPAN))
