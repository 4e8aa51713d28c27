"""Which nodes a draft pass takes: the best of all sessions, catch-ups first, none that is not worth it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drafthouse.policy.growth import (
    MIN_CONFIDENCE,
    Candidate,
    GrowingTree,
    PassBudget,
    Ranking,
    TreeLimits,
    floor,
    worth_a_pass,
    worth_a_place,
)
from drafthouse.policy.latency import Curve
from drafthouse.token_tree import ROOT

LATENCY = Curve("test", "", 10.0, 1.0, 0.001)
ROOMY = TreeLimits(1000, 1000)


@dataclass(eq=False)
class Growing:
    frontier: list[Candidate] = field(default_factory=list)
    missing: int = 0
    kv_tokens: int = 100
    expected_children: float = 0.5


confidences = st.sampled_from([0.1, 0.2, 0.3, 0.5, 0.9])
"""Few values, so that sessions tie."""


@given(st.lists(st.lists(confidences, max_size=6), max_size=6), st.integers(1, 8))
def test_a_pass_takes_the_best_nodes_of_all_sessions(frontiers: list[list[float]], nodes: int) -> None:
    sessions = [Growing(worth_a_pass([(c, node) for node, c in enumerate(each)], 0.5, 0.0)) for each in frontiers]
    planned = PassBudget(nodes, 16).plan(sessions)
    every = sorted((-c, node, i) for i, s in enumerate(sessions) for c, node in s.frontier)[:nodes]
    assert sorted((-c, node, sessions.index(s)) for s, chosen in planned for c, node in chosen) == every
    for _, chosen in planned:
        assert chosen
        assert chosen == sorted(chosen, key=lambda c: c[1]), "nodes ascend: parents before children in the KV cache"


def test_catch_ups_come_first_within_their_own_budget() -> None:
    growing, first, second, third = Growing([(0.9, 0)]), Growing(missing=10), Growing(missing=100), Growing(missing=1)
    assert PassBudget(4, 16).plan([growing, first, second, third]) == [(first, []), (second, []), (growing, [(0.9, 0)])]


def test_an_announcement_promises_what_one_pass_brings() -> None:
    budget = PassBudget(nodes=2, prefill_tokens=50)
    assert budget.announcement(Growing(), LATENCY) == (0.0, 0.0)
    growing = Growing([(0.8, 3), (0.4, 1), (0.3, 2)])
    assert budget.announcement(growing, LATENCY) == (LATENCY.seconds(2, 100), pytest.approx(0.5 * 1.2)), "the third waits for another pass"
    behind = Growing(missing=120, kv_tokens=30)
    assert budget.announcement(behind, LATENCY) == (3 * LATENCY.seconds(50, 150), 0.5), "three chunks"


def test_what_is_worth_a_pass_and_what_a_place() -> None:
    assert worth_a_pass([(0.3, 0), (0.8, 1), (0.41, 2), (0.4, 3)], 0.5, 0.2) == [(0.8, 1), (0.41, 2)]
    assert list(worth_a_place(0.5, [0.6, 0.1, 0.3], 0.15, 5)) == [0, 2]
    assert list(worth_a_place(0.5, [0.6, 0.1, 0.3], 0.0, 2)) == [0, 1]
    assert list(worth_a_place(0.5, [0.6, 0.1, 0.3], 0.0, -3)) == []
    assert floor(0.2) == 0.2
    assert floor(0.0) == MIN_CONFIDENCE


def ranking(tokens: Sequence[int], edges: Sequence[float]) -> Ranking:
    return Ranking(0, list(tokens), [1.0] * len(tokens), edges)


def assert_kept_up(growing: GrowingTree) -> None:
    assert growing.depths == growing.tree.depths()
    assert growing.confidences == pytest.approx(growing.tree.path_confidences())


@given(
    st.lists(st.tuples(st.integers(0, 30), st.lists(st.floats(0, 0.3), min_size=1, max_size=3)), max_size=12), st.integers(1, 12), st.data()
)
def test_depths_and_confidences_keep_up_with_the_tree(additions: list[tuple[int, list[float]]], most: int, data: st.DataObject) -> None:
    growing = GrowingTree()
    for where, edges in additions:
        unexpanded = [ROOT, *range(len(growing))]
        parent = unexpanded[where % len(unexpanded)]
        if parent != ROOT and parent not in growing.expanded:
            growing.expanded.append(parent)
        growing.add_children(parent, ranking(range(len(edges)), edges), 0.0, TreeLimits(most, 3))
        assert_kept_up(growing)
        assert len(growing) <= most
    if len(growing):
        node = data.draw(st.integers(0, len(growing) - 1))
        path, before = growing.tree.path(node), growing.tree
        on_path = growing.follow([*path, 99])
        assert [before.tokens[i] for i in on_path] == path
        expanded = growing.expanded
        index = growing.reroot(path, on_path)
        assert growing.expanded == [index[i] for i in expanded if i in index], "still in the order of their KV entries"
        assert all(before.tokens[old] == growing.tree.tokens[new] for old, new in index.items())
        assert_kept_up(growing)


def test_the_frontier_is_what_is_left_to_expand() -> None:
    growing = GrowingTree()
    growing.add_children(ROOT, ranking([5, 6, 7], [0.5, 0.3, 0.1]), 0.0, ROOMY)
    growing.expanded.append(0)
    growing.add_children(0, ranking([8], [0.9]), 0.0, ROOMY)
    assert growing.frontier(0.5, 0.05, ROOMY) == [(0.45, 3), (0.3, 1)]
    assert growing.frontier(0.5, 0.05, TreeLimits(1000, 2)) == [(0.3, 1)], "children of nodes at the last depth would lie too deep"
    assert growing.frontier(0.5, 0.05, TreeLimits(4, 9)) == [], "the tree is full"


def test_a_token_drafted_twice_is_one_node() -> None:
    growing = GrowingTree()
    for edges in ([0.5, 0.3], [0.4, 0.5]):
        growing.add_children(ROOT, ranking([5, 6], edges), 0.0, ROOMY)
    assert_kept_up(growing)
    assert growing.tree.edges == [0.5, 0.5], "the larger edge counts"
