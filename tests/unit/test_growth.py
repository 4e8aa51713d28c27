"""Which nodes a draft pass takes: the best of all sessions, catch-ups first, none that is not worth it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drafthouse.policy.growing_tree import GrowingTree, Ranking, TreeLimits
from drafthouse.policy.growth import (
    AHEAD_CONFIDENCE,
    NEGLIGIBLE_CONFIDENCE,
    Frontier,
    GrowthThreshold,
    PassBudget,
    pass_size,
    worth_a_pass,
    worth_a_place,
)
from drafthouse.policy.latency import Curve
from drafthouse.token_tree import ROOT
from tests.unit.latencies import Table, tables

LATENCY = Curve("test", "", 10.0, 1.0, 0.001)
FREE = Curve("free", "", 10.0, 0.0, 0.0)
ROOMY = TreeLimits(1000, 1000)
ANY, NOW = GrowthThreshold(0.0, ahead=False), GrowthThreshold(0.2, ahead=False)
AHEAD = GrowthThreshold(0.2, ahead=True)
NOTHING = Frontier([], [])


@dataclass(eq=False)
class Growing:
    frontier: Frontier = field(default_factory=lambda: NOTHING)
    missing: int = 0
    kv_tokens: int = 100
    expected_children: float = 0.5


confidences = st.sampled_from([0.1, 0.2, 0.3, 0.5, 0.9])
"""Few values, so that sessions tie."""


@given(st.lists(st.lists(confidences, max_size=6), max_size=6), st.integers(1, 8))
def test_a_pass_takes_the_best_nodes_of_all_sessions(frontiers: list[list[float]], nodes: int) -> None:
    sessions = [Growing(worth_a_pass([(c, node, 1.0) for node, c in enumerate(each)], 0.5, ANY)) for each in frontiers]
    planned = PassBudget(nodes, FREE).plan(sessions)
    every = sorted((-c, node, i) for i, s in enumerate(sessions) for c, node in s.frontier.now)[:nodes]
    assert sorted((-c, node, sessions.index(s)) for s, chosen in planned for c, node in chosen) == every
    for _, chosen in planned:
        assert chosen
        assert chosen == sorted(chosen, key=lambda c: c[1]), "nodes ascend: parents before children in the KV cache"


def test_catch_ups_come_first_within_their_own_budget() -> None:
    growing, first, second, third = Growing(Frontier([(0.9, 0)], [])), Growing(missing=10), Growing(missing=100), Growing(missing=1)
    assert PassBudget(16, FREE).plan([growing, first, second, third]) == [(first, []), (second, []), (growing, [(0.9, 0)])]


def test_a_pass_takes_first_what_is_worth_most() -> None:
    few, dear = Growing(Frontier([(0.9, 0)], [])), Growing(Frontier([(0.4, 1)], []))
    assert PassBudget(1, FREE).plan([few, dear]) == [(few, [(0.9, 0)])]
    assert PassBudget(1, FREE).plan([few, dear], lambda session: 3.0 if session is dear else 1.0) == [(dear, [(0.4, 1)])]
    first, second = Growing(missing=5), Growing(missing=5)
    assert PassBudget(4, FREE).plan([first, second], lambda session: 1.0 + (session is second)) == [(second, [])]


def test_idle_passes_alone_grow_ahead() -> None:
    ahead, both = Growing(Frontier([], [(0.1, 4)])), Growing(Frontier([(0.5, 1)], [(0.2, 2)]))
    assert PassBudget(16, FREE).plan([ahead, both]) == [(both, [(0.5, 1)])]
    assert PassBudget(16, FREE).plan([ahead, Growing(missing=3)])[0][1] == [], "a catch-up is not slowed down either"
    idle = Growing(Frontier([], [(0.2, 2)]))
    assert PassBudget(16, FREE).plan([ahead, idle]) == [(idle, [(0.2, 2)]), (ahead, [(0.1, 4)])], "best first"
    assert PassBudget(16, FREE).announcement(idle) == (0.0, 0.0), "nobody should wait for it"


def test_an_announcement_promises_what_one_pass_brings() -> None:
    budget = PassBudget(50, LATENCY)
    assert budget.announcement(Growing()) == (0.0, 0.0)
    growing = Growing(Frontier([(0.8, 3), (0.4, 1), (0.05, 2)], []))
    assert budget.announcement(growing) == (LATENCY.seconds(2, 100), pytest.approx(0.5 * 1.2)), "the third waits for another pass"
    behind = Growing(missing=120, kv_tokens=30)
    assert budget.announcement(behind) == (3 * LATENCY.seconds(50, 150), 0.5), "three chunks"


@given(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=20), tables(), st.integers(0, 4), st.floats(0.0, 1.0))
def test_no_other_number_of_nodes_brings_more_a_second(values: list[float], latency: Table, base: int, base_value: float) -> None:
    values, kv_tokens = sorted(values, reverse=True), [500 if i % 3 == 0 else 0 for i in range(len(values))]
    rates = [
        (base_value + sum(values[:n])) / latency.seconds(base + n, 100 + sum(kv_tokens[:n])) for n in range(1, len(values) + 1)
    ]  # fmt: skip
    size = pass_size(values, kv_tokens, latency, base, 100, base_value)
    assert rates[size - 1] == pytest.approx(max(rates))


def test_where_tokens_cost_nothing_a_pass_takes_all_sessions_and_where_they_cost_as_much_as_a_pass_the_best() -> None:
    """Thirty-two sessions with a sure node and three doubtful ones each."""
    sessions = [Growing(Frontier([(0.9, 0), (0.2, 1), (0.1, 2), (0.05, 3)], [])) for _ in range(32)]
    sizes = [
        sum(len(nodes) for _, nodes in PassBudget(256, Curve("", "", 1.0, per_token_ms, 0.0)).plan(sessions))
        for per_token_ms in (0.0, 0.15, 5.0)
    ]
    assert sizes == [128, 32, 32]
    alone = [len(PassBudget(256, Curve("", "", 1.0, each, 0.0)).plan(sessions[:1])[0][1]) for each in (0.0, 0.15, 5.0)]
    assert alone == [4, 2, 1]


def test_a_session_costs_its_kv_once_a_pass() -> None:
    short, long = Growing(Frontier([(0.9, 0)], []), kv_tokens=10), Growing(Frontier([(0.8, 0), (0.7, 1)], []), kv_tokens=1_000_000)
    assert PassBudget(256, LATENCY).plan([short, long]) == [(short, [(0.9, 0)])], "its KV takes a hundred passes' time"
    assert PassBudget(256, LATENCY).plan([long]) == [(long, [(0.8, 0), (0.7, 1)])], "which is paid with its first node"


def test_what_is_worth_a_pass_and_what_a_place() -> None:
    unexpanded = [(0.3, 0, 1.0), (0.8, 1, 1.0), (0.41, 2, 1.0), (0.4, 3, 1.0)]
    assert worth_a_pass(unexpanded, 0.5, NOW) == Frontier([(0.8, 1), (0.41, 2)], [])
    assert worth_a_pass(unexpanded, 0.5, AHEAD) == Frontier([(0.8, 1), (0.41, 2)], [(0.4, 3), (0.3, 0)])
    assert list(worth_a_place(0.5, [0.6, 0.1, 0.3], 0.15, 5)) == [0, 2]
    assert list(worth_a_place(0.5, [0.6, 0.1, 0.3], 0.0, 2)) == [0, 1]
    assert list(worth_a_place(0.5, [0.6, 0.1, 0.3], 0.0, -3)) == []
    assert GrowthThreshold.at(0.2, ahead=True) == AHEAD
    assert GrowthThreshold.at(0.0, ahead=False).least == NEGLIGIBLE_CONFIDENCE


def test_below_a_landing_what_counts_is_what_it_will_be_worth_there() -> None:
    growing = GrowingTree()
    growing.add_children(ROOT, ranking([5, 6, 7], [0.7, 0.1, 0.005]), AHEAD, ROOMY)
    assert len(growing) == 2, "a commit hardly ever lands on the third"
    growing.expanded.append(1)
    growing.add_children(1, ranking([8, 9], [0.5, 0.19]), AHEAD, ROOMY)
    assert growing.tree.tokens == [5, 6, 8], "after a commit of 6 the second would be below the price"
    assert growing.frontier(0.5, AHEAD, ROOMY) == Frontier([(0.7, 0)], [(0.05, 2)])
    assert growing.frontier(0.3, AHEAD, ROOMY).ahead == [], "nor would the children of 8 reach it"
    assert growing.frontier(0.5, NOW, ROOMY) == Frontier([(0.7, 0)], [])


@given(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=6), st.floats(0.0, 0.99))
def test_what_is_grown_ahead_pays_where_the_commit_lands(edges: list[float], price: float) -> None:
    """Along a path: a node has a place if it is worth verifying, if the commit may land on it, or if it is worth it afterwards."""
    growing, threshold = GrowingTree(), GrowthThreshold.at(price, ahead=True)
    confidences = [edges[0]]
    for node, edge in enumerate(edges[1:]):
        confidences.append(confidences[node] * edge)
    for node, edge in enumerate(edges):
        parent = node - 1 if node else ROOT
        landing = next((c for c in confidences[:node] if c < threshold.least), None)
        worth = confidences[node] / landing >= threshold.least * (1 - 1e-9) if landing else True
        often = confidences[node] >= min(threshold.least, AHEAD_CONFIDENCE) if landing is None else confidences[node] >= AHEAD_CONFIDENCE
        added = growing.add_children(parent, ranking([node], [edge]), threshold, ROOMY)
        assert added == (worth and often) or confidences[node] == pytest.approx(threshold.least * (landing or 1.0))
        if not added:
            break


def ranking(tokens: Sequence[int], edges: Sequence[float], source: int = 0) -> Ranking:
    return Ranking(source, list(tokens), [1.0] * len(tokens), edges)


def assert_kept_up(growing: GrowingTree) -> None:
    assert growing.depths == growing.tree.depths()
    assert growing.confidences == pytest.approx(growing.tree.path_confidences())


@given(
    st.lists(st.tuples(st.integers(0, 30), st.lists(st.floats(0, 0.3), min_size=1, max_size=3)), max_size=12), st.integers(1, 12), st.data()
)
def test_depths_and_confidences_keep_up_with_the_tree(additions: list[tuple[int, list[float]]], most: int, data: st.DataObject) -> None:
    growing = GrowingTree()
    for source, (where, edges) in enumerate(additions):
        unexpanded = [ROOT, *range(len(growing))]
        parent = unexpanded[where % len(unexpanded)]
        if parent != ROOT and parent not in growing.expanded:
            growing.expanded.append(parent)
        for first in range(1 + where % 3):  # some are ranked again, with other tokens
            growing.add_children(parent, ranking(range(first, first + len(edges)), edges, source), ANY, TreeLimits(most, 3))
        assert_kept_up(growing)
        assert len(growing) <= most
        assert all(sum(growing.tree.edges[i] for i in growing.tree.children(node)) <= 1 + 1e-9 for node in unexpanded)
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
    growing.add_children(ROOT, ranking([5, 6, 7], [0.5, 0.3, 0.1]), ANY, ROOMY)
    growing.expanded.append(0)
    growing.add_children(0, ranking([8], [0.9]), ANY, ROOMY)
    threshold = GrowthThreshold(0.05, ahead=False)
    assert growing.frontier(0.5, threshold, ROOMY).now == [(0.45, 3), (0.3, 1)]
    assert growing.frontier(0.5, threshold, TreeLimits(1000, 2)).now == [(0.3, 1)], "children of nodes at the last depth would lie too deep"
    assert growing.frontier(0.5, threshold, TreeLimits(4, 9)) == NOTHING, "the tree is full"


def test_a_token_drafted_twice_is_one_node() -> None:
    growing = GrowingTree()
    for source, edges in enumerate([[0.5, 0.3], [0.4, 0.5]]):
        growing.add_children(ROOT, ranking([5, 6], edges, source), ANY, ROOMY)
    assert_kept_up(growing)
    assert growing.tree.edges == [0.5, 0.5], "the larger edge counts"
    assert growing.tree.sources == [0, 1], "and its source"


def test_what_two_sources_promise_together_is_at_most_one() -> None:
    growing = GrowingTree()
    growing.add_children(ROOT, ranking([5], [0.9], source=2), ANY, ROOMY)
    growing.add_children(0, ranking([9], [0.5], source=2), ANY, ROOMY)
    growing.add_children(ROOT, ranking([6, 7], [0.6, 0.3], source=0), ANY, ROOMY)
    assert growing.tree.edges == pytest.approx([0.5, 0.5, 1 / 3, 1 / 6]), "scaled alike; what lies below keeps its own edge"
    assert_kept_up(growing)


def test_what_a_source_ranks_again_replaces_what_it_ranked_before() -> None:
    """Children that it promises no more stay, since nodes below them may be worth something, but with what the others leave."""
    growing = GrowingTree()
    growing.add_children(ROOT, ranking([5, 6, 7], [0.5, 0.3, 0.1]), ANY, ROOMY)
    growing.add_children(1, ranking([9], [0.9]), ANY, ROOMY)
    assert growing.add_children(ROOT, ranking([7, 8, 5], [0.6, 0.2, 0.1]), ANY, ROOMY) == 1
    assert growing.tree.tokens == [5, 6, 7, 9, 8]
    assert growing.tree.edges == pytest.approx([0.1, 0.1 * 0.3, 0.6, 0.9, 0.2])
    assert_kept_up(growing)
    assert growing.rankings[ROOT][0].hit(6) == -1


def test_in_turn_only_what_lies_below_expanded_nodes_is_run() -> None:
    growing = GrowingTree()
    growing.add_children(ROOT, ranking([5, 6], [0.5, 0.3]), ANY, ROOMY)
    growing.add_children(0, ranking([8], [0.9], source=2), ANY, ROOMY)
    threshold = GrowthThreshold(0.05, ahead=False)
    assert [node for _, node in growing.frontier(0.5, threshold, ROOMY).now] == [0, 2, 1]
    assert [node for _, node in growing.frontier(0.5, threshold, ROOMY, in_turn=True).now] == [0, 1]
    growing.expanded.append(0)
    assert [node for _, node in growing.frontier(0.5, threshold, ROOMY, in_turn=True).now] == [2, 1]


def test_a_source_is_asked_where_it_has_ranked_nothing_yet() -> None:
    growing = GrowingTree()
    assert growing.unranked(2, ROOT, 0.5, NOW, ROOMY) == [(1.0, ROOT)]
    growing.add_children(ROOT, ranking([5, 6], [0.7, 0.3], source=0), NOW, ROOMY)
    assert growing.unranked(2, ROOT, 0.5, NOW, ROOMY) == [(1.0, ROOT), (0.7, 0)], "the children of the other would not reach the price"
    growing.add_children(ROOT, ranking([], [], source=2), NOW, ROOMY)
    assert growing.unranked(2, ROOT, 0.5, NOW, ROOMY) == [(0.7, 0)], "nothing is a ranking too"
    assert growing.unranked(2, 1, 0.5, AHEAD, ROOMY) == [(0.3, 1)]
    assert growing.unranked(2, ROOT, 0.5, NOW, TreeLimits(1000, 1)) == []
    assert growing.unranked(2, ROOT, 0.5, NOW, TreeLimits(2, 9)) == []
