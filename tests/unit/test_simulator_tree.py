"""The simulator's tree against the real one: the same nodes survive every re-rooting, with the same confidences."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drafthouse.token_tree import ROOT, TokenTree
from simulator.acceptance import Acceptance
from simulator.draft_tree import DraftTree
from tests.unit.synthetic_traces import trace
from tests.unit.test_tree_rows import walk

OTHER = 1000
"""Tokens of nodes off the path start here; the text's token at position p is p."""


def _grown(seed: int, passes: int) -> tuple[DraftTree, TokenTree]:
    """The same tree twice, from passes over random nodes."""
    rng = random.Random(seed)
    tree = DraftTree(Acceptance(trace(requests=1, output_tokens=12), None, random.Random(seed)).text(0))
    real = TokenTree()
    expanded: set[int] = set()
    for _ in range(passes):
        node = rng.choice([ROOT, *range(len(tree))])
        if node in expanded:
            continue
        expanded.add(node)
        first = len(tree)
        confidence = 1.0 if node == ROOT else real.path_confidences()[node]
        tree.expand(node, -1, confidence, 4, 0.0, 4, rng)
        for i in range(first, len(tree)):
            token = tree.positions[i] if tree.on_path(i) else OTHER + i
            edge = tree.confidences([i], -1)[0] / confidence
            real.add(token, node, edge, 0)
    return tree, real


@given(st.integers(0, 1 << 20), st.integers(1, 25), st.integers(0, 6))
def test_the_same_nodes_survive(seed: int, passes: int, committed: int) -> None:
    tree, real = _grown(seed, passes)
    survivors = real.survivors(list(range(committed))) if committed else list(range(len(real)))
    assert tree.below(list(range(len(tree))), committed - 1) == survivors
    assert tree.confidences(survivors, committed - 1) == pytest.approx(real.reroot(list(range(committed))).path_confidences())


@given(st.integers(0, 1 << 20), st.integers(1, 25), st.integers(0, 20))
def test_the_same_nodes_are_accepted(seed: int, passes: int, count: int) -> None:
    tree, real = _grown(seed, passes)
    chosen = real.best_first(count)
    accepted, _ = walk(real.subtree(chosen), 0, [tree.positions[i] + 1 if tree.on_path(i) else -1 for i in chosen])
    assert tree.accepted(chosen) == len(accepted)
