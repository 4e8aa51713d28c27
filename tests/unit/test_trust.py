"""How far a drafter's word is taken: bounded, per drafter and session, and what long lying leads to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drafthouse.policy.trust import BAN_S, LIE_S, LOWEST_RATIO, PRIOR_TOKENS, Standing, TrustRecord


@given(st.lists(st.tuples(st.floats(0, 20), st.integers(0, 20)), max_size=50), st.floats(0, 1))
def test_the_ratio_is_bounded_whatever_is_seen(steps: list[tuple[float, int]], prior: float) -> None:
    record = TrustRecord()
    for promised, accepted in steps:
        record.observe(promised, accepted)
    assert LOWEST_RATIO <= record.given(prior) <= 1.0


def test_half_kept_is_half_believed_and_rest_forgives() -> None:
    record = TrustRecord()
    for _ in range(200):
        record.observe(1.0, 0.5)
    assert record.ratio == pytest.approx(0.5, abs=0.01)
    for _ in range(8000):
        record.rest()
    assert record.ratio > 0.95


def test_without_evidence_a_session_is_believed_as_its_drafter() -> None:
    session = TrustRecord()
    assert session.given(0.3) == pytest.approx(0.3)
    for _ in range(100):
        session.observe(1.0, 1.0)
    assert session.given(0.3) > 0.95
    session = TrustRecord()
    session.observe(PRIOR_TOKENS, 0.0)
    assert session.given(0.3) == pytest.approx(0.15)


def test_long_lying_bans_and_a_short_lapse_does_not() -> None:
    standing, now, banned = Standing(), 0.0, 0
    while now < 0.3 * LIE_S:
        standing.observe(2.0, 0.0)
        banned += standing.end_step(now)
        now += 0.05
    for _ in range(200):
        standing.observe(2.0, 2.0)
        banned += standing.end_step(now)
        now += 0.05
    assert not banned
    while not standing.end_step(now):
        standing.observe(2.0, 0.0)
        now += 0.05
    assert standing.banned(now + BAN_S - 0.1)
    assert not standing.banned(now + BAN_S)
    assert standing.trust_record.ratio == 1.0, "it starts anew"
