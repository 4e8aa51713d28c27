"""Which size of draft is made."""

import pathlib

import pytest

from drafthouse.distillation.agreement import Agreement, LevelAgreement
from drafthouse.distillation.sizes import LEAST_S, Size, best_size, sizes_to_try, try_sizes
from drafthouse.policy.latency import Curve

TARGET = Curve("target", "made up", 10.0, 0.5, 0.0)


def judged(layers: int, first: float, milliseconds: float) -> Size:
    agreement = Agreement((LevelAgreement((first, 0.1), (first, 0.1), 100),), 1.0)
    return Size.judged(layers, agreement, TARGET, Curve("draft", "made up", milliseconds, 0.0, 0.0), hidden=False)


def test_a_larger_draft_is_made_where_it_agrees_enough_more_for_its_time() -> None:
    small, dear, good = judged(1, 0.5, 0.5), judged(2, 0.52, 3.0), judged(4, 0.75, 1.0)
    assert best_size([small, dear]) is small
    assert best_size([small, dear, good]) is good
    assert good.shared_cores < good.own_cores


def test_equal_promise_makes_the_smaller() -> None:
    assert best_size([Size(2, 0.5, 1.0, 1.2, 1.3), Size(1, 0.5, 1.0, 1.2, 1.3)]).layers == 1


def test_sizes_are_tried_where_there_is_time_and_a_choice() -> None:
    assert sizes_to_try(30, LEAST_S) == [1, 2, 4]
    assert sizes_to_try(30, LEAST_S - 1) == []
    assert sizes_to_try(4, LEAST_S) == [1, 2]
    assert sizes_to_try(2, LEAST_S) == []


def test_a_run_that_was_killed_goes_on_with_the_next_size(tmp_path: pathlib.Path) -> None:
    asked: list[int] = []

    def judge(layers: int) -> Size:
        if layers == 4 and 4 not in asked:
            asked.append(layers)
            raise KeyboardInterrupt
        asked.append(layers)
        return judged(layers, 0.1 * layers, 1.0)

    with pytest.raises(KeyboardInterrupt):
        try_sizes([1, 2, 4], tmp_path, judge)
    assert [size.layers for size in try_sizes([1, 2, 4], tmp_path, judge)] == [1, 2, 4]
    assert asked == [1, 2, 4, 4]
