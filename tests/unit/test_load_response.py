"""How depth follows the load: on courses whose answer is known."""

import math
from collections.abc import Callable

import pytest

from benchmarks.load.response import WINDOW_S, Change, Phase, Sample, changes, depths

PHASES = [Phase(1, 0.0, 10.0), Phase(8, 10.0, 20.0), Phase(1, 20.0, 30.0)]
EVERY_S = 0.1


def course(depth: Callable[[float], float]) -> list[Sample]:
    """50 steps of one sequence per second, with the depth of the moment, from 1 s before the first phase on."""
    samples, verified, committed = [], 0.0, 0.0
    for i in range(-10, 300):
        at_s = i * EVERY_S
        verified += 50 * EVERY_S * depth(at_s)
        committed += 50 * EVERY_S * 2
        samples.append(Sample(at_s, running=1, price=0.1, verified=verified, accepted=committed / 2, committed=committed))
    return samples


def of_depth(depth: Callable[[float], float]) -> list[Change]:
    samples = course(depth)
    return changes([s.at_s for s in samples], depths(samples).tolist(), PHASES)


def test_depth_is_nodes_by_sequence_and_step() -> None:
    found = depths(course(lambda t: 6.0))
    assert math.isnan(found[0])
    assert found[1:] == pytest.approx([6.0] * 309)


def test_no_depth_where_nothing_steps() -> None:
    still = [Sample(0.1 * i, 0, 0.1, 5.0, 1.0, 2.0) for i in range(5)]
    assert all(math.isnan(d) for d in depths(still))


def test_a_prompt_answer_settles_within_the_window() -> None:
    up, down = of_depth(lambda t: 2.0 if 10 <= t < 20 else 8.0)
    assert (up.before, up.after) == pytest.approx((8.0, 2.0))
    assert (down.before, down.after) == pytest.approx((2.0, 8.0))
    assert up.settle_s <= WINDOW_S
    assert down.settle_s <= WINDOW_S
    assert (up.returns, down.returns) == (0, 0)


def test_a_slow_answer_is_seen() -> None:
    up, _ = of_depth(lambda t: 8.0 if t < 10 or t > 20 else max(2.0, 8.0 - 2.0 * (t - 10)))
    assert up.settle_s == pytest.approx(0.8 * 3.0, abs=WINDOW_S)


def test_an_answer_that_comes_late_counts_from_the_change() -> None:
    _, down = of_depth(lambda t: 8.0 if t < 10 or t >= 25 else 2.0)
    assert down.settle_s == pytest.approx(5.0, abs=WINDOW_S)


def test_a_peak_is_no_answer() -> None:
    up, _ = of_depth(lambda t: 2.0 if 11 <= t < 11.3 or 14 <= t < 20 else 8.0)
    assert up.settle_s == pytest.approx(4.0, abs=WINDOW_S)


def test_going_back_for_long_is_counted_and_a_moment_is_not() -> None:
    up, _ = of_depth(lambda t: 8.0 if not 10 <= t < 20 or 12 <= t < 14 or 16 <= t < 16.4 else 2.0)
    assert up.returns == 1


def test_a_signal_that_does_not_change_has_nothing_to_follow() -> None:
    at = [0.1 * i for i in range(300)]
    assert all(math.isnan(c.settle_s) and c.returns == 0 for c in changes(at, [0.25] * 300, PHASES))
