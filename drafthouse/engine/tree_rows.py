"""The rows of a step's trees, flat: of each sequence its root, then the nodes of its tree, parents before children.

Promises: all that is done here is done for all sequences at once. Rows are counted over the whole step.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from drafthouse.token_tree import ROOT, TokenTree

Ints = np.ndarray
"""int32 or int64."""


@dataclass(frozen=True, slots=True)
class TreeRows:
    """`first[i]` is the row of root `i`; the last one is the number of rows. Of each row: its token, its parent's row (a root's is its
    own), its depth (a root has 0) and what drafted it (of a root -1)."""

    first: Ints
    tokens: Ints
    parents: Ints
    depths: Ints
    sources: Ints

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def nodes(self) -> int:
        return len(self.tokens) - len(self.first) + 1

    @property
    def counts(self) -> Ints:
        """Rows of each sequence."""
        return np.diff(self.first)

    def spread(self, values: Sequence[float] | Ints) -> np.ndarray:
        """A value of each sequence, for each of its rows."""
        return np.repeat(np.asarray(values), self.counts)

    def totals(self, rows: np.ndarray) -> Ints:
        """Of bools by row, how many are true of each sequence."""
        return np.add.reduceat(rows, self.first[:-1], dtype=np.int64) if len(rows) else np.zeros(0, dtype=np.int64)

    def ancestors(self) -> Ints:
        """For one row after another, the rows from the child of its root down to itself: as many as it has depth. A root has none."""
        ends = np.cumsum(self.depths)
        found = np.empty(ends[-1] if len(ends) else 0, dtype=np.int64)
        rows, at = np.flatnonzero(self.depths), ends - 1
        at, depths = at[rows], self.depths[rows]
        while len(rows):
            found[at] = rows
            above = depths > 1
            rows, at, depths = self.parents[rows[above]], at[above] - 1, depths[above] - 1
        return found

    def walk(self, chosen: Ints) -> np.ndarray:
        """Which rows are reached from the roots by what was chosen after each row, bool `[rows]`: each root, and a node if its parent is
        reached and its token was chosen there. Siblings differ, so they are one path for each sequence."""
        reached, above = chosen[self.parents] == self.tokens, self.parents
        reached[self.first[:-1]] = True
        for _ in range(int(self.depths.max(initial=0)).bit_length()):  # after round k the nearest 2**k of each path are looked at
            reached &= reached[above]
            above = above[above]
        return reached

    def with_children(self) -> np.ndarray:
        """Which rows have any, bool `[rows]`."""
        found = np.zeros(len(self), dtype=bool)
        found[self.parents[self.depths > 0]] = True
        return found

    def tree(self, sequence: int) -> TokenTree:
        """Of one sequence; its edges are not known."""
        first, end = self.first[sequence], self.first[sequence + 1]
        parents, nodes = (self.parents[first + 1 : end] - first - 1).tolist(), slice(first + 1, end)
        return TokenTree(self.tokens[nodes].tolist(), parents, [0.0] * len(parents), self.sources[nodes].tolist())


def tree_rows(roots: Sequence[int], trees: Sequence[TokenTree], owners: Sequence[int], picked: Ints | None = None) -> TreeRows:
    """The root tokens of all sequences, and trees of some of them: `owners` says of which, ascending. Of the trees' nodes, counted
    through, only those `picked`, which ascend and are closed under parents; None: all."""
    sizes = [len(tree) for tree in trees]
    picked = np.arange(sum(sizes)) if picked is None else picked
    owner = np.repeat(np.asarray(owners, dtype=np.int64), sizes)[picked]
    first = np.zeros(len(roots) + 1, dtype=np.int64)
    np.cumsum(1 + np.bincount(owner, minlength=len(roots)), out=first[1:])
    rows = np.arange(len(picked)) + owner + 1
    tokens, parents = np.empty(first[-1], dtype=np.int32), np.arange(first[-1])
    sources = np.full(first[-1], -1, dtype=np.int32)
    tokens[first[:-1]] = roots
    if len(picked):
        starts = np.repeat(np.cumsum(sizes) - sizes, sizes)[picked]  # where the node's own tree begins
        row_of = np.empty(sum(sizes), dtype=np.int64)
        row_of[picked] = rows
        above, tokens[rows], sources[rows] = (
            _flat(lists, sum(sizes))[picked]
            for lists in ([tree.parents for tree in trees], [tree.tokens for tree in trees], [tree.sources for tree in trees])
        )
        parents[rows] = np.where(above == ROOT, first[owner], row_of[starts + above])
    return TreeRows(first, tokens, parents, _depths(parents), sources)


def _depths(parents: Ints) -> Ints:
    """Steps to the row that is its own parent."""
    depths, above = (parents != np.arange(len(parents))).astype(np.int32), parents
    while (depths[above] > 0).any():  # each round doubles how far `depths` have counted
        depths += depths[above]
        above = above[above]
    return depths


def _flat(lists: Iterable[Sequence[int]], count: int) -> Ints:
    return np.fromiter(chain.from_iterable(lists), np.int64, count)
