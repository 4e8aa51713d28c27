"""When a device that does not come back is taken for stalled."""

from drafthouse.policy.stall import LOOK_S, STALL_S, STALL_TIMES, StallWatch

ENOUGH = round(STALL_S / LOOK_S)


def looks(watch: StallWatch, runs: list[int | None], expected_s: float = 0.001) -> list[bool]:
    """The verdict after each look."""
    verdicts = []
    for run in runs:
        before = watch.stalled
        assert watch.look(run, expected_s) == (watch.stalled != before)
        verdicts.append(watch.stalled)
    return verdicts


def test_a_run_that_stays_is_stalled_and_the_next_one_is_not() -> None:
    assert looks(StallWatch(), [7] * (ENOUGH + 2) + [8] * ENOUGH) == [False] * ENOUGH + [True] * 2 + [False] * ENOUGH


def test_runs_that_come_back_and_devices_that_rest_are_not() -> None:
    many = 10 * ENOUGH
    assert not any(looks(StallWatch(), list(range(many))))
    assert not any(looks(StallWatch(), [None] * many))
    assert not any(looks(StallWatch(), ([7] * ENOUGH + [None]) * 3)), "the same number, but it has come back"


def test_a_run_that_should_take_long_may() -> None:
    due = round(STALL_TIMES * 1.0 / LOOK_S)
    assert looks(StallWatch(), [7] * (due + 1), expected_s=1.0) == [False] * due + [True]


def test_time_in_which_nobody_looked_is_not_counted() -> None:
    """Whether the process was halted between two looks or not, they are two."""
    assert looks(StallWatch(), [7, 7]) == [False, False]
