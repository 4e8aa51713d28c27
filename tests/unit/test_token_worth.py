"""What a token is worth: the objective's arithmetic, its bounds, and who gets nothing more."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drafthouse.objective import FIRST_PRIORITY, LAST_PRIORITY, Objective
from drafthouse.policy.token_worth import HOPELESS, URGENT, Progress, needed_per_step, out_of_reach, weight, worth, worth_of_first

OBJECTIVE = Objective(first_token_s=1.0, per_token_s=0.01)


def test_what_is_needed_is_what_is_left_over_the_steps_that_are_left() -> None:
    # 51 tokens in 0.5 s from the first on; after 0.2 s with 21 of them, 30 are left for 15 steps of 20 ms.
    assert needed_per_step(OBJECTIVE, Progress(21, 30, 0.2), 0.02) == pytest.approx(2.0)
    assert needed_per_step(OBJECTIVE, Progress(51, 0, 0.6), 0.02) == 0.0
    assert math.isinf(needed_per_step(OBJECTIVE, Progress(20, 31, 0.5), 0.02))


def test_without_an_objective_it_is_the_priority() -> None:
    assert worth(3.0, None, Progress(0, 10, 0.0), 0.02) == 3.0


def test_who_is_in_time_anyway_or_late_for_good_is_worth_no_more_than_others() -> None:
    assert worth(1.0, OBJECTIVE, Progress(1, 50, 0.0), 0.005) == 1.0
    assert worth(1.0, OBJECTIVE, Progress(1, 50, 0.0), 0.0101 * HOPELESS) == 1.0
    assert worth(1.0, OBJECTIVE, Progress(1, 50, 0.0), 0.02) == URGENT


def test_an_objective_is_kept_by_first_token_and_by_the_mean_time_of_the_others() -> None:
    assert OBJECTIVE.kept(1.0, 1.5, 51)
    assert not OBJECTIVE.kept(1.1, 1.5, 51)
    assert not OBJECTIVE.kept(0.5, 1.1, 51)


@given(
    priority=st.floats(0.1, 10.0), done=st.integers(0, 500), left=st.integers(1, 500), since=st.floats(0.0, 20.0), step=st.floats(1e-3, 0.5)
)
def test_worth_is_bounded_and_grows_with_the_delay_until_it_is_hopeless(
    priority: float, done: int, left: int, since: float, step: float
) -> None:
    now, later = (worth(priority, OBJECTIVE, Progress(done, left, s), step) for s in (since, since + 0.01))
    assert priority <= now <= URGENT * priority * (1 + 1e-9)
    hopeless = needed_per_step(OBJECTIVE, Progress(done, left, since + 0.01), step) > HOPELESS
    assert later == priority if hopeless else later >= now


def test_a_priority_is_a_factor_of_two_and_the_lower_one_is_worth_more() -> None:
    assert [weight(priority) for priority in range(FIRST_PRIORITY, LAST_PRIORITY + 1)] == [4.0, 2.0, 1.0, 0.5, 0.25]


def test_half_of_an_objective_is_enough() -> None:
    only_first, only_pace = Objective(first_token_s=1.0), Objective(per_token_s=0.01)
    assert worth(1.0, only_first, Progress(1, 50, 9.0), 0.5) == 1.0
    assert worth_of_first(1.0, only_pace, 9.0, 0.5) == 1.0
    assert only_first.kept(0.9, 99.0, 50)
    assert only_pace.kept(99.0, 99.4, 50)
    assert only_pace.kept(1.0, 1.0, 1), "one token has no pace"


@pytest.mark.parametrize(
    ("waited", "expected"),
    [
        pytest.param(0.0, 2.0, id="half of the time is left"),
        pytest.param(0.15, 2.0 * (1.0 + 0.5 * (URGENT - 1.0)), id="a quarter is left"),
        pytest.param(0.6, 2.0 * URGENT, id="it would be in time only now"),
        pytest.param(0.9, 2.0 * URGENT, id="it may be late"),
        pytest.param(1.0, 2.0, id="it is late: nothing more can be kept"),
    ],
)
def test_before_the_first_token_it_grows_with_the_time_that_is_spent(waited: float, expected: float) -> None:
    prefill_s = 0.5 if waited < 0.1 else 0.6
    assert worth_of_first(2.0, OBJECTIVE, waited, prefill_s) == pytest.approx(expected)


def test_out_of_reach_is_what_one_alone_would_not_keep() -> None:
    assert not out_of_reach(OBJECTIVE, 0.01 * HOPELESS, 1.0)
    assert out_of_reach(OBJECTIVE, 0.011 * HOPELESS, 1.0)
    assert out_of_reach(OBJECTIVE, 0.001, 1.1)
    assert not out_of_reach(Objective(first_token_s=1.0), 5.0, 0.5)
