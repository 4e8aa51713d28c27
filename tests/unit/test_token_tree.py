"""Every operation of the tree against its plain definition, on random trees."""

import math
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drafthouse.errors import WireError
from drafthouse.token_tree import ROOT, TokenTree

VOCAB = 6


@st.composite
def trees(draw: st.DrawFn, max_nodes: int = 12) -> TokenTree:
    """Siblings have different tokens and edges that sum to at most 1; nodes stand in any order of parents first."""
    tree = TokenTree()
    left: dict[int, float] = {}
    for source in range(draw(st.integers(0, max_nodes))):
        parent = draw(st.integers(ROOT, len(tree) - 1))
        taken = {tree.tokens[i] for i in range(len(tree)) if tree.parents[i] == parent}
        if len(taken) == VOCAB:
            continue
        token = draw(st.sampled_from([t for t in range(VOCAB) if t not in taken]))
        share = draw(st.sampled_from([0.0, 0.25, 0.5, 1.0])) * left.get(parent, 1.0)
        left[parent] = left.get(parent, 1.0) - share
        tree.tokens.append(token)
        tree.parents.append(parent)
        tree.edges.append(share)
        tree.sources.append(source)
    return tree


def line(tree: TokenTree, node: int) -> list[int]:
    """Nodes from the root's child down to `node`."""
    return [] if node == ROOT else [*line(tree, tree.parents[node]), node]


def words(tree: TokenTree) -> dict[tuple[int, ...], tuple[float, int]]:
    """The tree as a set of paths, each with its node's edge and source: what its meaning depends on."""
    return {tuple(tree.tokens[i] for i in line(tree, node)): (tree.edges[node], tree.sources[node]) for node in range(len(tree))}


@given(trees())
def test_depth_path_and_confidence(tree: TokenTree) -> None:
    for node in range(len(tree)):
        up = line(tree, node)
        assert tree.depths()[node] == len(up)
        assert tree.path(node) == [tree.tokens[i] for i in up]
        assert tree.path_confidences()[node] == pytest.approx(math.prod(tree.edges[i] for i in up))
    assert tree.depths_and_confidences() == (tree.depths(), tree.path_confidences())
    assert tree.path(ROOT) == []


@given(trees())
def test_children_and_find(tree: TokenTree) -> None:
    for node in range(ROOT, len(tree)):
        assert tree.children(node) == [i for i in range(len(tree)) if tree.parents[i] == node]
        assert tree.find(tree.path(node)) == node
        missing = set(range(VOCAB)) - {tree.tokens[i] for i in tree.children(node)}
        assert all(tree.find([*tree.path(node), token]) is None for token in missing)


@given(trees(), st.integers(ROOT, 11), st.integers(0, VOCAB - 1), st.floats(0, 1))
def test_add(tree: TokenTree, parent: int, token: int, edge: float) -> None:
    parent = min(parent, len(tree) - 1)
    before, size = words(tree), len(tree)
    path = (*tree.path(parent), token)
    node = tree.add(token, parent, edge, source=99)
    tree.check(VOCAB, max_nodes=13)
    assert tuple(tree.path(node)) == path
    old_edge, old_source = before.get(path, (0.0, 99))
    assert words(tree) == before | {path: (max(edge, old_edge), old_source)}
    assert len(tree) == size + (path not in before)


@given(trees(max_nodes=8), st.integers(0, 9))
def test_best_first_is_best_and_closed(tree: TokenTree, count: int) -> None:
    chosen = tree.best_first(count)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(count, len(tree))
    assert all(tree.parents[i] in {ROOT, *chosen} for i in chosen)
    confidences = tree.path_confidences()
    best = max(sum(confidences[i] for i in some) for some in combinations(range(len(tree)), len(chosen)))
    assert sum(confidences[i] for i in chosen) == pytest.approx(best)


@given(trees(), st.integers(0, 12))
def test_subtree_keeps_paths(tree: TokenTree, count: int) -> None:
    chosen = tree.best_first(count)
    small = tree.subtree(chosen)
    small.check(VOCAB, max_nodes=12)
    assert words(small) == {tuple(tree.path(i)): (tree.edges[i], tree.sources[i]) for i in chosen}


@given(trees(), st.data())
def test_reroot_keeps_conditional_edges(tree: TokenTree, data: st.DataObject) -> None:
    on_tree = st.integers(ROOT, len(tree) - 1).map(tree.path)
    tokens = data.draw(st.one_of(on_tree, st.lists(st.integers(0, VOCAB - 1), max_size=3)))
    prefix = tuple(tokens)
    below = [i for i in range(len(tree)) if tuple(tree.path(i)[: len(prefix)]) == prefix and len(tree.path(i)) > len(prefix)]
    assert tree.survivors(tokens) == below
    after = tree.reroot(tokens)
    after.check(VOCAB, max_nodes=12)
    assert words(after) == {p[len(prefix) :]: kept for p, kept in words(tree).items() if p[: len(prefix)] == prefix and p != prefix}
    root = tree.find(tokens)
    if root not in (None, ROOT) and tree.path_confidences()[root] > 0:
        whole = [tree.path_confidences()[i] / tree.path_confidences()[root] for i in below]
        assert after.path_confidences() == pytest.approx(whole)


@given(trees(), st.data())
def test_reroot_twice_is_reroot_once(tree: TokenTree, data: st.DataObject) -> None:
    tokens = data.draw(st.integers(ROOT, len(tree) - 1).map(tree.path))
    cut = data.draw(st.integers(0, len(tokens)))
    assert tree.reroot(tokens[:cut]).reroot(tokens[cut:]) == tree.reroot(tokens)


@given(trees())
def test_check_accepts_trees(tree: TokenTree) -> None:
    tree.check(VOCAB, len(tree))
    if len(tree):
        with pytest.raises(WireError, match="limit"):
            tree.check(VOCAB, len(tree) - 1)


@pytest.mark.parametrize(
    ("tokens", "parents", "edges", "sources", "message"),
    [
        ([1], [-1], [0.5], [], "different length"),
        ([1, 2], [-1], [0.5, 0.5], [0, 0], "different length"),
        ([1], [-1], [0.5, 0.5], [0], "different length"),
        ([VOCAB], [-1], [0.5], [0], f"node 0 has token {VOCAB}"),
        ([-1], [-1], [0.5], [0], "node 0 has token -1"),
        ([1], [-2], [0.5], [0], "node 0 has parent -2"),
        ([1], [0], [0.5], [0], "node 0 has parent 0"),
        ([1, 2], [1, -1], [0.5, 0.5], [0, 0], "node 0 has parent 1"),
        ([1], [-1], [1.5], [0], "node 0 has edge 1.5"),
        ([1], [-1], [-0.1], [0], "node 0 has edge -0.1"),
        ([1], [-1], [math.nan], [0], "node 0 has edge nan"),
        ([1, 2, 1], [-1, 0, -1], [0.5, 0.5, 0.5], [0, 0, 0], "node 2 repeats token 1 under parent -1"),
    ],
)
def test_check_refuses(tokens: list[int], parents: list[int], edges: list[float], sources: list[int], message: str) -> None:
    with pytest.raises(WireError, match=message):
        TokenTree(tokens, parents, edges, sources).check(VOCAB, 10)
