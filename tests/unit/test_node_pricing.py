"""What time is worth: follows the load at once, and never falls below plain decoding."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drafthouse.policy.latency import Curve
from drafthouse.policy.node_pricing import NodePricing

LINE = Curve("line", "", 10.0, 1.0, 0.0)


def steps(pricing: NodePricing, count: int, sequences: int, tokens_each: float, seconds: float) -> None:
    for _ in range(count):
        pricing.quote(sequences, 0, 0)
        pricing.observe(round(tokens_each * sequences), sequences, 0, seconds, None)


def test_the_rate_is_what_was_reached_at_a_steady_load() -> None:
    pricing = NodePricing(LINE)
    steps(pricing, 400, 4, 2.0, 0.018)
    assert pricing.value_of_a_second == pytest.approx(8 / 0.018, rel=0.02)
    assert pricing.meter.gain == pytest.approx((8 / 0.018) / (4 / 0.014), rel=0.02)


def test_a_change_of_load_shows_in_the_next_step() -> None:
    pricing = NodePricing(LINE)
    steps(pricing, 400, 32, 1.0, LINE.seconds(32, 0))
    crowded = pricing.price
    pricing.quote(1, 0, 0)
    assert pricing.value_of_a_second == pytest.approx(1 / LINE.seconds(1, 0), rel=0.02)
    assert pricing.price < crowded / 5


@given(st.lists(st.tuples(st.integers(1, 32), st.floats(0.0, 3.0), st.floats(0.001, 0.5)), max_size=30), st.integers(1, 64))
def test_time_is_never_cheaper_than_plain_decoding_makes_it(history: list[tuple[int, float, float]], sequences: int) -> None:
    pricing = NodePricing(LINE)
    for count, tokens, seconds in history:
        steps(pricing, 1, count, tokens, seconds)
    pricing.quote(sequences, 0, 0)
    assert pricing.value_of_a_second >= (1 - 1e-9) * sequences / LINE.seconds(sequences, 0)


def test_the_overhead_of_plain_steps_is_part_of_plain_decoding() -> None:
    pricing = NodePricing(LINE)
    for _ in range(300):
        pricing.quote(1, 0, 0)
        pricing.observe(1, 1, 0, 0.016, 0.005)
    assert pricing.meter.gain == pytest.approx(1.0, rel=0.03), "16 ms for a token of 11 ms is no loss of speculation"


def test_the_floor_is_asked_and_the_price_stays() -> None:
    pricing = NodePricing(LINE)
    own = pricing.price
    pricing.set_price_floor(0.7)
    assert (pricing.quoted_price, pricing.price) == (0.7, own)
    pricing.set_price_floor(0.0)
    assert pricing.quoted_price == own
    assert pricing.seconds_per_node == pytest.approx(0.001)


def test_what_is_asked_for_a_sequence_falls_with_its_worth_and_rises_with_the_drafters_time() -> None:
    pricing = NodePricing(LINE)
    pricing.quote(4, 0, 0)
    price = pricing.quoted_price
    assert pricing.quoted_for(1.0, 0.0) == price
    pricing.weigh([1.0, 3.0])
    assert pricing.quoted_for(2.0, 0.0) == pytest.approx(price)
    assert pricing.quoted_for(4.0, 0.0) == pytest.approx(price / 2)
    assert pricing.quoted_for(2.0, 0.5) == pytest.approx(price + 0.25)
    pricing.weigh([])
    assert pricing.mean_worth == 1.0
