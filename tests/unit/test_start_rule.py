"""Start or wait: exactly while the wait is worth it, and never beyond what a hung drafter announced."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drafthouse.policy.start_rule import GAIN_SHARE, SLACK_S, SLACK_SHARE, Announcement, wait_until, worth_a_look

times = st.floats(0.0, 1.0)
rates = st.floats(0.0, 1000.0)


@st.composite
def announcements(draw: st.DrawFn) -> Announcement:
    made = draw(times)
    return Announcement(made, made + draw(st.floats(0.0, 0.5)), draw(st.floats(0.0, 3.0)))


def live(now: float, made: list[Announcement]) -> list[Announcement]:
    return [a for a in made if a.void_at > now and a.tokens > 0]


@given(times, st.lists(announcements(), max_size=5), rates)
def test_waits_exactly_if_some_wait_is_worth_more_than_it_costs(now: float, made: list[Announcement], goodput: float) -> None:
    """Waiting until t gains GAIN_SHARE of all that is due by then, and costs goodput times the wait."""
    worth = [
        GAIN_SHARE * sum(b.tokens for b in live(now, made) if b.next_pass_at <= a.next_pass_at)
        - goodput * max(0.0, a.next_pass_at - now) for a in live(now, made)
    ]  # fmt: skip
    until = wait_until(now, made, goodput)
    assert (until is not None) == (max(worth, default=0.0) > 0.0) or max(worth) == pytest.approx(0.0, abs=1e-9)
    if until is not None:
        assert until > now
        assert until in [a.void_at for a in live(now, made)]


@given(times, st.lists(announcements(), max_size=5), rates, st.floats(0.02, 1.0))
def test_what_is_not_worth_a_look_is_not_waited_for(now: float, made: list[Announcement], goodput: float, trust: float) -> None:
    """It is asked of the announcements as made, before any of them is doubted."""
    if not worth_a_look(now, made, goodput, GAIN_SHARE):
        assert wait_until(now, [a._replace(tokens=trust * a.tokens) for a in made], goodput) is None
    else:
        assert made


@given(st.lists(announcements(), max_size=5), rates)
def test_a_hung_drafter_is_never_waited_for_past_the_void_time(made: list[Announcement], goodput: float) -> None:
    """Nothing arrives: asked again and again, the rule starts at the last void time at the latest."""
    now = 0.0
    for _ in range(20):
        until = wait_until(now, made, goodput)
        if until is None:
            break
        assert until <= max(a.void_at for a in made)
        now = until
    assert wait_until(now, made, goodput) is None
    assert wait_until(max([0.0, *(a.void_at for a in made)]), made, goodput) is None


@given(times, st.floats(0.0, 0.5))
def test_the_void_time_is_the_announced_wait_plus_slack(made: float, wait: float) -> None:
    announcement = Announcement(made, made + wait, 1.0)
    assert announcement.void_at - made == pytest.approx(wait * (1 + SLACK_SHARE) + SLACK_S)


def test_the_first_of_two_may_be_worth_it_and_the_second_not() -> None:
    near, far = Announcement(0.0, 0.010, 1.0), Announcement(0.0, 1.0, 1.0)
    assert wait_until(0.0, [far, near], 50.0) == near.void_at
    assert wait_until(0.0, [far, near], 0.5) == far.void_at
    assert wait_until(0.0, [far], 50.0) is None


def test_small_gains_that_are_due_together_add_up() -> None:
    crowd = [Announcement(0.0, 0.010, 0.25) for _ in range(4)]
    assert wait_until(0.0, crowd[:1], 50.0) is None
    assert wait_until(0.0, crowd, 50.0) is not None


def test_nothing_announced_means_start() -> None:
    for tokens, goodput in product([0.0], [0.0, 10.0]):
        assert wait_until(0.0, [], goodput) is None
        assert wait_until(0.0, [Announcement(0.0, 0.1, tokens)], goodput) is None
