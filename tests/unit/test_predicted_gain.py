"""What a draft promises: expected tokens and time by hand for small cases, and how it moves with costs and agreement."""

import pytest

from drafthouse.distillation.predicted_gain import MOST_NODES, Pace, predicted_gain
from drafthouse.policy.latency import Curve, MeasuredLatency

FLAT = Curve("target", "made up", 10.0, 0.0, 0.0)
"""A target for which a tree costs nothing."""

RISING = Curve("target", "made up", 10.0, 1.0, 0.0)
FREE = Curve("draft", "made up", 0.0, 0.0, 0.0)


def draft(milliseconds: float) -> Curve:
    return Curve("draft", "made up", milliseconds, 0.0, 0.0)


def test_a_free_draft_of_one_level_brings_what_its_ranks_sum_to() -> None:
    found = predicted_gain([(0.5, 0.2)], Pace(FLAT, FREE, shared_cores=True, runs_again=False))
    assert found.nodes == MOST_NODES
    chain = predicted_gain([(0.5,), (0.0,)], Pace(FLAT, FREE, shared_cores=True, runs_again=False))
    assert (chain.nodes, chain.depth) == (1, 1)
    assert chain.tokens_per_step == chain.speed_up == pytest.approx(1.5)


def test_a_chain_by_hand() -> None:
    """Two levels of 0.8: 1 + 0.8 + 0.64 tokens in 13 + 2 x 1 ms, and plain decoding takes 11."""
    found = predicted_gain([(0.8,), (0.8,), (0.0,)], Pace(RISING, draft(1.0), shared_cores=True, runs_again=False))
    assert (found.nodes, found.depth) == (2, 2)
    assert found.speed_up == pytest.approx(2.44 * 11.0 / 15.0)


def test_cores_of_its_own_hide_the_draft_behind_the_target() -> None:
    own = predicted_gain([(0.8,), (0.8,), (0.0,)], Pace(RISING, draft(6.0), shared_cores=False, runs_again=False))
    shared = predicted_gain([(0.8,), (0.8,), (0.0,)], Pace(RISING, draft(6.0), shared_cores=True, runs_again=False))
    assert own.speed_up == pytest.approx(2.44 * 11.0 / 13.0)
    assert shared.speed_up < own.speed_up


def test_a_draft_that_costs_more_than_it_brings_is_not_used() -> None:
    found = predicted_gain([(0.3, 0.1)], Pace(RISING, draft(30.0), shared_cores=True, runs_again=False))
    assert found.speed_up == 1.0
    assert found.nodes == 0


def test_committed_tokens_that_are_run_again_cost_their_time() -> None:
    by_token = MeasuredLatency({1: 1e-3, 8: 8e-3})
    again, once = (predicted_gain([(0.9,)], Pace(RISING, by_token, shared_cores=True, runs_again=each)) for each in (True, False))
    assert again.speed_up < once.speed_up


def test_level_two_counts_where_the_tree_is_deep() -> None:
    good, poor = (predicted_gain([(0.8,), (deep,)], Pace(RISING, draft(0.5), True, False)) for deep in (0.8, 0.2))
    assert good.depth > poor.depth
    assert good.speed_up > poor.speed_up
