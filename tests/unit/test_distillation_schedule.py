"""Parts of a distillation that need no model: schedule, head ids, the order of texts."""

from itertools import islice

import numpy as np
import pytest

from drafthouse.distillation.batches import Order
from drafthouse.distillation.head_ids import choose_head_ids, token_weights
from drafthouse.distillation.schedule import Budget, rate, unrolled_steps
from drafthouse.distillation.shards import TOP, Text


def test_the_rate_warms_up_stays_and_decays_by_the_share_of_time() -> None:
    assert rate(0.0) == pytest.approx(0.02)
    assert rate(0.01) == pytest.approx(0.5)
    assert rate(0.3) == rate(0.6) == 1.0
    assert rate(5 / 6) == pytest.approx(0.5)
    assert rate(1.0) == pytest.approx(0.02)


def test_steps_on_own_states_come_later() -> None:
    assert [unrolled_steps(share) for share in (0.0, 0.5, 0.6, 0.85, 1.0)] == [0, 0, 1, 2, 2]


def test_more_minutes_take_a_budget_back_to_an_earlier_share() -> None:
    assert Budget(60.0, 60.0).left == 0.0
    assert Budget(60.0, 75.0).share == 1.0
    assert Budget(120.0, 60.0).share == 0.5


def test_head_ids_are_the_heaviest_with_those_that_end_a_text() -> None:
    weights = np.array([0.0, 5.0, 1.0, 9.0, 0.5, 9.0])
    assert choose_head_ids(weights, [4, 0, 99], 3).tolist() == [3, 4, 5]
    assert choose_head_ids(weights, [], 2).tolist() == [3, 5]
    assert choose_head_ids(weights, [], 99).tolist() == [1, 2, 3, 4, 5]


def test_weights_count_what_the_target_wrote_and_not_its_prompt() -> None:
    logprobs = np.full((4, TOP), -np.inf, dtype=np.float16)
    logprobs[1:3, 0] = 0.0
    ids = np.zeros((4, TOP), dtype=np.int32)
    ids[1:3, 0] = (7, 8)
    text = Text(0, "chat", 0.0, 2, np.array([5, 6, 7, 9], dtype=np.int32), ids, logprobs)
    weights = token_weights([text], 12)
    assert {i: w for i, w in enumerate(weights) if w} == {7: 2.0, 8: 1.0, 9: 1.0}


def test_each_epoch_has_every_text_once_in_another_order() -> None:
    rows = [10, 0, 20, 30, 5, 8]
    order = Order(rows, 25, seed=3)
    first, second = order.epoch(0), order.epoch(1)
    assert sorted(sum(first, [])) == [0, 2, 3, 4, 5] == sorted(sum(second, []))
    assert sum(first, []) != sum(second, [])
    assert all(sum(rows[place] for place in batch) >= 25 for batch in first[:-1])


def test_an_order_goes_on_where_another_stopped() -> None:
    rows = list(range(1, 40))
    whole = list(islice(Order(rows, 60, seed=1), 30))
    stopped = Order(rows, 60, seed=1)
    begun = list(islice(stopped, 17))
    assert begun + list(islice(Order(rows, 60, seed=1, position=stopped.position), 13)) == whole
