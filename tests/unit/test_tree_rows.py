"""The rows of a step's trees against each tree by itself, one node at a time."""

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from drafthouse.engine.tree_rows import TreeRows, tree_rows
from drafthouse.token_tree import ROOT, TokenTree
from tests.unit.test_token_tree import VOCAB, line, trees


def walk(tree: TokenTree, root_choice: int, choices: Sequence[int]) -> tuple[list[int], int]:
    """Follows `root_choice` after the root and `choices[i]` after node `i`: the accepted nodes, and the token that ends the walk."""
    accepted: list[int] = []
    node, choice = ROOT, root_choice
    while True:
        child = next((i for i in tree.children(node) if tree.tokens[i] == choice), None)
        if child is None:
            return accepted, choice
        accepted.append(child)
        node, choice = child, choices[child]


@st.composite
def forests(draw: st.DrawFn) -> tuple[list[int], list[TokenTree], TreeRows]:
    """Root tokens; of each sequence the tree that is verified, in part empty ones; and all of them packed, out of larger trees."""
    count = draw(st.integers(0, 5))
    roots = [draw(st.integers(0, VOCAB - 1)) for _ in range(count)]
    owners = [i for i in range(count) if draw(st.booleans())]
    offered = [draw(trees()) for _ in owners]
    kept = [tree.best_first(draw(st.integers(0, len(tree)))) for tree in offered]
    before = np.cumsum([0, *(len(tree) for tree in offered)])
    picked = np.array([before[k] + node for k, nodes in enumerate(kept) for node in nodes], dtype=np.int64)
    small = [TokenTree() for _ in roots]
    for owner, tree, nodes in zip(owners, offered, kept, strict=True):
        small[owner] = tree.subtree(nodes)
    return roots, small, tree_rows(roots, offered, owners, picked)


@given(forests())
def test_rows_are_roots_and_nodes_in_order(forest: tuple[list[int], list[TokenTree], TreeRows]) -> None:
    roots, small, rows = forest
    assert rows.counts.tolist() == [1 + len(tree) for tree in small]
    assert (len(rows), rows.nodes) == (sum(rows.counts), sum(len(tree) for tree in small))
    for i, (root, tree) in enumerate(zip(roots, small, strict=True)):
        first, end = rows.first[i], rows.first[i + 1]
        assert rows.tokens[first:end].tolist() == [root, *tree.tokens]
        assert (rows.parents[first:end] - first).tolist() == [0, *(parent + 1 for parent in tree.parents)]
        assert rows.depths[first:end].tolist() == [0, *tree.depths()]
        assert rows.sources[first:end].tolist() == [-1, *tree.sources]
        assert rows.with_children()[first:end].tolist() == [node in tree.parents for node in range(ROOT, len(tree))]
        again = rows.tree(i)
        assert (again.tokens, again.parents, again.sources) == (tree.tokens, tree.parents, tree.sources)


@given(forests())
def test_ancestors_go_down_from_the_roots_child(forest: tuple[list[int], list[TokenTree], TreeRows]) -> None:
    _, small, rows = forest
    wanted = [rows.first[i] + 1 + at for i, tree in enumerate(small) for node in range(len(tree)) for at in line(tree, node)]
    assert rows.ancestors().tolist() == wanted


@given(forests(), st.data())
def test_a_walk_follows_what_was_chosen(forest: tuple[list[int], list[TokenTree], TreeRows], data: st.DataObject) -> None:
    _, small, rows = forest
    chosen = data.draw(st.lists(st.integers(0, VOCAB - 1), min_size=len(rows), max_size=len(rows)))
    reached, wanted = rows.walk(np.array(chosen)), []
    for i, tree in enumerate(small):
        first, end = rows.first[i], rows.first[i + 1]
        accepted, _ = walk(tree, chosen[first], chosen[first + 1 : end])
        wanted += [node in accepted or node == ROOT for node in range(ROOT, len(tree))]
    assert reached.tolist() == wanted
    assert rows.totals(reached).tolist() == [sum(wanted[a:b]) for a, b in zip(rows.first, rows.first[1:], strict=False)]


def test_a_long_chain_is_walked_to_where_it_breaks() -> None:
    chain = TokenTree(list(range(20)), list(range(-1, 19)), [1.0] * 20, [0] * 20)
    rows = tree_rows([7], [chain], [0])
    for right in range(21):
        chosen = np.array([*range(right), 99, *range(right + 1, 21)])
        assert rows.walk(chosen).sum() == 1 + right
