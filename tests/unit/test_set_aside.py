"""Which replicas are left alone: those that fail, with backoff, but never all of them for one request's sake."""

import pytest

from drafthouse.policy.set_aside import ENOUGH, FIRST_REFUSAL_S, FIRST_S, KEPT_ACCUSERS, LONGEST_REFUSAL_S, LONGEST_S, SetAside

JUST = 1e-6


def test_each_failed_trial_doubles_the_time_up_to_a_bound():
    aside, now, waits = SetAside(), 0.0, []
    for request in range(7):
        aside.failed("a", f"r{request}", now)
        waited = next(s for s in [FIRST_S * 2**i for i in range(10)] if not aside.failing("a", now + s))
        assert aside.failing("a", now + waited - JUST)
        waits.append(waited)
        now += waited
        aside.began("a", now)
    assert waits == [FIRST_S, 20, 40, 80, LONGEST_S, LONGEST_S, LONGEST_S]


def test_requests_that_fail_together_count_once():
    aside = SetAside()
    for request in range(50):
        aside.failed("a", f"r{request}", 0.0)
    assert not aside.failing("a", FIRST_S)


def test_after_the_time_one_request_tries_it():
    aside = SetAside()
    aside.failed("a", "r1", 0.0)
    assert not aside.failing("a", FIRST_S)
    aside.began("a", FIRST_S)
    assert aside.failing("a", FIRST_S + JUST), "the others wait for what becomes of it"
    assert not aside.failing("a", 2 * FIRST_S), "nothing became of it: the next one"
    aside.served("a", "r2", began=FIRST_S, now=FIRST_S + 1)
    aside.began("a", FIRST_S + 1)
    assert not aside.failing("a", FIRST_S + 1)


def test_tokens_of_an_attempt_from_before_do_not_clear_it():
    aside = SetAside()
    aside.gone("a", 10.0)
    aside.served("a", "old", began=9.0, now=11.0)
    assert aside.failing("a", 11.0)
    aside.served("a", "new", began=10.5, now=11.0)
    assert not aside.failing("a", 11.0)


def test_a_request_that_fails_everywhere_sets_none_aside():
    aside = SetAside()
    aside.failed("a", "poison", 0.0)
    assert aside.failing("a", 0.0), "it may be the replica's fault"
    for replica in "bcd":
        aside.failed(replica, "poison", 0.0)
        assert not any(aside.failing(one, 0.0) for one in "abcd")
    aside.ended("poison")
    assert not any(aside.failing(one, 0.0) for one in "abcd")


def test_a_request_that_was_served_at_last_shows_who_failed():
    aside = SetAside()
    for replica in "ab":
        aside.failed(replica, "r1", 0.0)
    aside.served("c", "r1", began=1.0, now=2.0)
    assert [aside.failing(one, 2.0) for one in "abc"] == [True, True, False]


def test_a_replica_accused_by_another_request_stays_aside():
    aside = SetAside()
    for replica, request in ("a", "r1"), ("a", "r2"), ("b", "r1"):
        aside.failed(replica, request, 0.0)
    assert [aside.failing(one, 0.0) for one in "ab"] == [True, False]


@pytest.mark.parametrize("served_between", [False, True])
def test_many_doubtful_requests_in_a_row_speak_against_replicas(served_between):
    """As where three of many replicas are bad. Beside sound requests, poison speaks against none."""
    aside = SetAside()
    aside.keep({*"abcdefg"})
    for number in range(ENOUGH):
        for replica in "abc":
            aside.failed(replica, f"r{number}", float(number))
            if served_between:
                aside.served(replica, f"sound{number}", began=number + 0.1, now=number + 0.2)
        aside.ended(f"r{number}")
    assert [aside.failing(one, float(ENOUGH)) for one in "abc"] == [not served_between] * 3


def test_requests_that_fail_at_half_of_the_pool_are_at_fault():
    aside = SetAside()
    aside.keep({*"abcdef"})
    for number in range(ENOUGH):
        for replica in "abc":
            aside.failed(replica, f"r{number}", 0.0)
    assert not any(aside.failing(one, 0.0) for one in "abcdef")
    aside.keep({*"abcdefg"})
    assert [one for one in "abcdefg" if aside.failing(one, 0.0)] == ["a", "b", "c"]


def test_refusals_double_too_and_end_with_service():
    aside, now, waits = SetAside(), 0.0, []
    for _ in range(7):
        aside.refused("a", now)
        aside.refused("a", now)  # together
        waits.append(next(s for s in [FIRST_REFUSAL_S * 2**i for i in range(10)] if not aside.full("a", now + s)))
        assert aside.full("a", now + waits[-1] - JUST)
        now += waits[-1]
    assert waits == [0.25, 0.5, 1, 2, 4, LONGEST_REFUSAL_S, LONGEST_REFUSAL_S]
    assert not aside.failing("a", 0.0)
    aside.served("a", "r", began=now, now=now)
    aside.refused("a", now)
    assert not aside.full("a", now + FIRST_REFUSAL_S)


def test_what_is_kept_of_requests_is_bounded():
    aside = SetAside()
    for number in range(1000):
        for replica in "ab":
            aside.failed(replica, f"r{number}", 0.0)
        aside.ended(f"r{number}")
    [record, _] = aside._records.values()
    assert len(record.accusers) + len(record.doubtful) <= ENOUGH + KEPT_ACCUSERS
    assert not aside._failed
