"""Selection against brute force: over every N, and in small cases over every set of nodes closed under parents."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drafthouse.policy import selection
from drafthouse.policy.latency import Curve, LatencyModel
from drafthouse.token_tree import ROOT, TokenTree
from tests.unit.latencies import Table, tables


@st.composite
def forests(draw: st.DrawFn, max_nodes: int = 8) -> list[TokenTree]:
    """Up to three trees of nodes with edges of at most 1, some of them equal and some zero."""
    forest = []
    for _ in range(draw(st.integers(1, 3))):
        tree = TokenTree()
        for i in range(draw(st.integers(0, max_nodes // 2))):
            tree.add(i, draw(st.integers(ROOT, i - 1)), draw(st.sampled_from([0.0, 0.3, 0.5, 0.9, 1.0])), 0)
        forest.append(tree)
    return forest


def flat(forest: Sequence[TokenTree]) -> tuple[list[float], list[int]]:
    """Confidences of all nodes, tree by tree, and each node's parent in the same numbering."""
    confidences: list[float] = []
    parents: list[int] = []
    for tree in forest:
        parents += [ROOT if p == ROOT else p + len(confidences) for p in tree.parents]
        confidences += tree.path_confidences()
    return confidences, parents


rates = st.floats(0.0, 500.0)


def select(
    confidences: Sequence[float] | np.ndarray, sequences: int, prompt: int, kv: int, goodput: float, latency: LatencyModel, limit: int
) -> list[int]:
    picked: list[int] = selection.select(confidences, sequences, prompt, kv, goodput, latency, limit).tolist()
    return picked


@given(forests(), tables(), rates, st.integers(0, 20), st.integers(0, 4), st.integers(0, 2000))
def test_the_selected_set_is_closed_under_parents_and_within_the_limit(
    forest: list[TokenTree], latency: Table, goodput: float, limit: int, prompt: int, kv: int
) -> None:
    confidences, parents = flat(forest)
    picked = select(confidences, len(forest), prompt, kv, goodput, latency, limit)
    assert len(picked) == len(set(picked)) <= limit
    assert all(parents[node] == ROOT or parents[node] in picked for node in picked)
    assert all(confidences[a] >= confidences[b] for a, b in zip(picked, picked[1:], strict=False))


@given(forests(), tables(), rates, st.integers(0, 4), st.integers(0, 2000))
def test_no_number_of_best_nodes_is_worth_more(forest: list[TokenTree], latency: Table, goodput: float, prompt: int, kv: int) -> None:
    confidences, _ = flat(forest)
    base, ordered = len(forest) + prompt, sorted((c for c in confidences if c > 0.0), reverse=True)
    picked = select(confidences, len(forest), prompt, kv, goodput, latency, limit=100)
    values = [sum(ordered[:n]) - goodput * latency.seconds(base + n, kv) for n in range(len(ordered) + 1)]
    assert values[len(picked)] == pytest.approx(max(values), abs=1e-9)


@given(forests(max_nodes=6), tables(), rates)
def test_no_closed_set_at_all_is_worth_more(forest: list[TokenTree], latency: Table, goodput: float) -> None:
    confidences, parents = flat(forest)
    base = len(forest)
    picked = select(confidences, base, 0, 0, goodput, latency, limit=100)

    def worth(nodes: Sequence[int]) -> float:
        return sum(confidences[i] for i in nodes) - goodput * latency.seconds(base + len(nodes), 0)

    possible = [i for i, c in enumerate(confidences) if c > 0.0]
    for size in range(len(possible) + 1):
        for nodes in combinations(possible, size):
            if all(parents[i] == ROOT or parents[i] in nodes for i in nodes):
                assert worth(nodes) <= worth(picked) + 1e-9


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), max_size=40), st.integers(1, 40))
def test_of_equal_confidences_the_first_come_first(confidences: list[float], limit: int) -> None:
    """So a parent comes before a child of edge 1, also where the limit cuts through a run of equal ones."""
    free = Curve("free", "", 1.0, 0.0, 0.0)
    stable = sorted(range(len(confidences)), key=lambda i: -confidences[i])
    wanted = [i for i in stable[:limit] if confidences[i] > 0.0]
    assert select(confidences, 1, 0, 0, 100.0, free, limit) == wanted
    assert select(np.array(confidences), 1, 0, 0, 100.0, free, limit) == wanted


def test_a_step_of_the_curve_is_climbed_only_for_enough_tokens() -> None:
    """Two nodes more cost nothing, the third a whole step: a greedy scan that stops at the first loss would miss the rest."""
    latency = Table([0.010, 0.010, 0.020, 0.020, 0.020, 0.020, 0.020])  # T(0), T(1), ...
    assert select([0.9, 0.9, 0.9, 0.9, 0.9], 1, 0, 0, 300.0, latency, 5) == [0, 1, 2, 3, 4]
    assert select([0.9, 0.2, 0.2, 0.2, 0.2], 1, 0, 0, 300.0, latency, 5) == []
    assert select([0.9, 0.2], 1, 0, 0, 50.0, latency, 5) == [0, 1]


def test_a_dip_is_reached_by_nodes_alone() -> None:
    """No runner pads: without the nodes a step takes its own time, and what is not to be verified does not fill it up."""
    latency = Table([0.010, 0.030, 0.031, 0.010, 0.040])
    assert select([0.5, 0.5, 0.5], 1, 0, 0, 1e3, latency, 3) == [0, 1]
    assert select([0.5], 1, 0, 0, 1e3, latency, 3) == [], "one node alone costs a millisecond, though two would save twenty"
    assert select([0.5, 0.0], 1, 0, 0, 1e3, latency, 3) == []


def test_nothing_to_select() -> None:
    assert select([], 1, 0, 0, 10.0, Table([0.01]), 5) == []
    assert select([0.9], 1, 0, 0, 10.0, Table([0.01]), 0) == []
    assert select([0.9], 1, 0, 0, 10.0, Table([0.01]), -3) == []
