"""When the refused are told to come again: places as they free, one for each, at a rate that was measured."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drafthouse.policy.retry_line import LEAST_S, MEMORY, MOST_S, RetryLine


def served(line: RetryLine, in_service: int, service_s: float, seconds: float, start: float = 0.0, ended: int = 0) -> tuple[float, int]:
    """A server with so many places, each taken anew at once; returns the time and how many have ended."""
    now, step = start, service_s / in_service
    while now < start + seconds:
        now += step
        ended += 1
        line.observe(now, in_service, ended)
    return now, ended


@pytest.mark.parametrize(("in_service", "service_s"), [(1, 0.2), (8, 4.0), (32, 4.0)])
def test_the_rate_is_that_of_the_server(in_service: int, service_s: float) -> None:
    line = RetryLine()
    line.observe(0.0, 0, 0)
    now, _ = served(line, in_service, service_s, 10 * MEMORY * service_s / in_service)
    assert line.places_per_s(in_service) == pytest.approx(in_service / service_s, rel=0.05)
    assert line.refuse(now, in_service) == pytest.approx(service_s / in_service, rel=0.05)


def test_the_rate_follows_a_server_that_slows_down() -> None:
    line = RetryLine()
    line.observe(0.0, 0, 0)
    now, ended = served(line, 4, 0.5, 20.0)
    served(line, 4, 5.0, 3 * MEMORY * 5.0 / 4, now, ended)
    assert line.places_per_s(4) == pytest.approx(0.8, rel=0.1)


def test_while_nobody_ends_the_rate_falls() -> None:
    line = RetryLine()
    rates = []
    for now in range(0, 100, 10):
        line.observe(float(now), 4, 0)
        rates.append(line.places_per_s(4))
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.02


def test_idle_time_does_not_count() -> None:
    line = RetryLine()
    now, ended = served(line, 2, 1.0, 100.0)
    before = line.places_per_s(2)
    line.observe(now + 1000.0, 0, ended)
    assert line.places_per_s(2) == before


def test_each_of_many_refused_has_its_own_turn_and_the_line_moves_on() -> None:
    line = RetryLine()
    now, _ = served(line, 10, 1.0, 60.0)
    turns = [line.refuse(now, 10) for _ in range(20)]
    gaps = [b - a for a, b in zip(turns, turns[1:], strict=False)]
    assert gaps == pytest.approx([0.1] * 19, rel=0.1), "a place every tenth of a second"
    assert line.refuse(now + 1.0, 10) == pytest.approx(turns[-1] + 0.1 - 1.0, rel=0.05)
    assert line.refuse(now + 100.0, 10) == pytest.approx(0.1, rel=0.1), "the line is empty again"


@given(st.lists(st.tuples(st.floats(0, 1000), st.integers(0, 64), st.integers(0, 64), st.booleans()), max_size=60))
def test_what_is_told_is_bounded_and_never_before_the_one_refused_last(events: list[tuple[float, int, int, bool]]) -> None:
    line, now, ended, last = RetryLine(), 0.0, 0, 0.0
    for seconds, in_service, more, refuse in events:
        now, ended = now + seconds, ended + more
        line.observe(now, in_service, ended)
        if refuse:
            told = line.refuse(now, in_service)
            assert LEAST_S <= told <= MOST_S
            assert now + told >= min(last, now + MOST_S) - 1e-9
            last = now + told
