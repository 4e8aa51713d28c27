"""The guard around own stages: what is slow, raises or returns nonsense is a fault, and harms nobody."""

import threading
import time

import numpy as np
import pytest

from drafthouse.stages.stage import Children
from drafthouse.stages.stage_sandbox import StageFault, Worker, checked


def test_a_worker_goes_on_after_a_call_that_never_ends() -> None:
    worker = Worker()
    with pytest.raises(StageFault, match="took longer"):
        worker.call(lambda: [None for _ in iter(lambda: time.sleep(0.01), 1)])
    worker.begin_turn()
    assert worker.call(lambda: 7, 5.0) == 7
    with pytest.raises(StageFault, match="raised ZeroDivisionError"):
        worker.call(lambda: 1 / 0, 5.0)


def test_a_call_that_is_merely_late_leaves_no_thread_behind() -> None:
    before = set(threading.enumerate())
    worker, goes_on = Worker(), threading.Event()
    [late] = set(threading.enumerate()) - before
    with pytest.raises(StageFault, match="took longer"):
        worker.call(lambda: goes_on.wait(20))
    goes_on.set()
    late.join(20)
    assert not late.is_alive()


def test_the_calls_of_a_turn_share_its_limit() -> None:
    worker, calls = Worker(), list[int]()

    def many() -> None:
        for i in range(20):
            worker.call(lambda i=i: (calls.append(i), time.sleep(0.03)))

    with pytest.raises(StageFault, match=r"took longer than 0\.1 s for \d calls of one turn"):
        many()
    assert len(calls) <= 4, "0.03 s each"


@pytest.mark.parametrize(
    "children",
    [
        Children([1, 1], [1.0, 1.0]),
        Children([1], []),
        Children([1, 2, 3], [1.0, 1.0, 1.0]),
        Children([50], [1.0]),
        Children([-1], [1.0]),
        Children([1], [-0.5]),
        Children([1], [float("nan")]),
        Children(["a"], [1.0]),  # type: ignore[list-item]
    ],
)
def test_what_is_no_list_of_children_is_a_fault(children: Children) -> None:
    with pytest.raises(StageFault):
        checked(children, 2, 50)


def test_numpy_numbers_become_plain_ones() -> None:
    got = checked(Children(list(np.array([3, 4])), list(np.array([0.5, np.inf]))), 2, 50)
    assert got == Children([3, 4], [0.5, float("inf")])
    assert {type(token) for token in got.tokens} == {int}
