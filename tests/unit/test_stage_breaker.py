"""A stage that fails in session after session is out, and tried again by one at a time."""

from drafthouse.policy.stage_breaker import FAULTS_IN_A_ROW, OUT_S, StageBreaker


def broken(now: float = 0.0) -> StageBreaker:
    breaker = StageBreaker()
    for _ in range(FAULTS_IN_A_ROW):
        assert breaker.allows(now)
        breaker.failed(now)
    return breaker


def test_a_row_of_faults_takes_it_out() -> None:
    breaker = broken()
    assert breaker.out
    assert not any(breaker.allows(0.1 * i * OUT_S) for i in range(10))


def test_a_session_in_which_it_worked_ends_the_row() -> None:
    breaker = StageBreaker()
    for _ in range(5):
        for _ in range(FAULTS_IN_A_ROW - 1):
            breaker.failed(0.0)
        breaker.worked()
    assert not breaker.out


def test_one_session_at_a_time_tries_again() -> None:
    breaker = broken()
    assert [breaker.allows(OUT_S + i) for i in range(3)] == [True, False, False]
    breaker.failed(OUT_S + 10)
    assert [breaker.allows(OUT_S + 10 + seconds) for seconds in (OUT_S - 1, OUT_S, OUT_S + 1)] == [False, True, False]
    breaker.worked()
    assert all(breaker.allows(2 * OUT_S + 20) for _ in range(5))


def test_a_try_without_a_verdict_is_followed_by_another() -> None:
    breaker = broken()
    assert [breaker.allows(seconds) for seconds in (OUT_S, 2 * OUT_S - 1, 2 * OUT_S)] == [True, False, True]


def test_sessions_that_had_it_before_put_the_next_try_off() -> None:
    breaker = broken()
    breaker.failed(50.0)
    assert [breaker.allows(seconds) for seconds in (OUT_S, 50.0 + OUT_S)] == [False, True]
