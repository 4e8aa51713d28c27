"""The token tree: candidate continuations of a sequence, as flat arrays with parents before children.

Promises: node `i` has a parent `< i`, or -1, which is the root: the last committed token, not a
node itself. `edges[i]` is the probability that node `i` is accepted given that its parent was.
Siblings carry different tokens and their edges sum to at most 1, so path confidence (the product
of edges) never rises along a path and stays right after re-rooting. Pure Python: trees hold tens
of nodes, and every operation below is linear in them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from drafthouse.errors import WireError

ROOT = -1


@dataclass(slots=True)
class TokenTree:
    """One entry for each node in each list. `sources` say what drafted a node (`drafthouse.stages.build.SOURCE_OF`)."""

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    edges: list[float] = field(default_factory=list)
    sources: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.tokens)

    def add(self, token: int, parent: int, edge: float, source: int) -> int:
        """Appends a node and returns its index; a token that the parent already has is that node, with the larger edge."""
        for i in range(max(parent, 0), len(self.tokens)):
            if self.parents[i] == parent and self.tokens[i] == token:
                self.edges[i] = max(self.edges[i], edge)
                return i
        self.tokens.append(token)
        self.parents.append(parent)
        self.edges.append(edge)
        self.sources.append(source)
        return len(self.tokens) - 1

    def depths(self) -> list[int]:
        """Depth of each node; a child of the root has depth 1."""
        depths: list[int] = []
        for parent in self.parents:
            depths.append(1 if parent == ROOT else depths[parent] + 1)
        return depths

    def depths_and_confidences(self) -> tuple[list[int], list[float]]:
        """Both of each node: see `depths` and `path_confidences`."""
        depths: list[int] = []
        confidences: list[float] = []
        for parent, edge in zip(self.parents, self.edges, strict=True):
            if parent == ROOT:
                depths.append(1)
                confidences.append(edge)
            else:
                depths.append(depths[parent] + 1)
                confidences.append(confidences[parent] * edge)
        return depths, confidences

    def path_confidences(self) -> list[float]:
        """Probability that each node is accepted: the product of the edges from the root."""
        confidences: list[float] = []
        for parent, edge in zip(self.parents, self.edges, strict=True):
            confidences.append(edge if parent == ROOT else confidences[parent] * edge)
        return confidences

    def path(self, node: int) -> list[int]:
        """Tokens from the root's child down to `node`; empty for the root."""
        tokens: list[int] = []
        while node != ROOT:
            tokens.append(self.tokens[node])
            node = self.parents[node]
        return tokens[::-1]

    def children(self, node: int) -> list[int]:
        return [i for i in range(node + 1, len(self.parents)) if self.parents[i] == node]

    def find(self, tokens: Sequence[int]) -> int | None:
        """The node that the path `tokens` leads to (`ROOT` for an empty path), or None."""
        node, depth = ROOT, 0
        for i, parent in enumerate(self.parents) if tokens else ():  # children come after their parent
            if parent == node and self.tokens[i] == tokens[depth]:
                node, depth = i, depth + 1
                if depth == len(tokens):
                    break
        return node if depth == len(tokens) else None

    def best_first(self, count: int) -> list[int]:
        """Indices, ascending, of the `count` nodes of highest path confidence.

        Confidence does not rise along a path and the sort is stable, so a parent always comes
        before its children and the set is closed under parents.
        """
        confidences = self.path_confidences()
        order = sorted(range(len(self)), key=lambda i: -confidences[i])
        return sorted(order[:count])

    def subtree(self, nodes: Sequence[int]) -> "TokenTree":
        """The tree of `nodes`, which ascend and are closed under parents."""
        return self._below(ROOT, nodes)

    def _below(self, root: int, nodes: Sequence[int]) -> "TokenTree":
        """The tree of `nodes`, ascending, with `root` as its root; the parent of each is `root` or one of them."""
        index = {root: ROOT} | {old: new for new, old in enumerate(nodes)}
        return TokenTree(
            [self.tokens[i] for i in nodes],
            [index[self.parents[i]] for i in nodes],
            [self.edges[i] for i in nodes],
            [self.sources[i] for i in nodes],
        )

    def survivors(self, tokens: Sequence[int]) -> list[int]:
        """Indices, ascending, of the nodes below the path `tokens`: what a re-rooting there keeps."""
        new_root = self.find(tokens)
        return [] if new_root is None else self._descendants(new_root)

    def _descendants(self, root: int) -> list[int]:
        """Indices, ascending, of the nodes below `root`."""
        kept: list[int] = []
        inside = {root}
        for i in range(root + 1, len(self.parents)):  # children come after their parent
            if self.parents[i] in inside:
                inside.add(i)
                kept.append(i)
        return kept

    def reroot(self, tokens: Sequence[int]) -> "TokenTree":
        """What is left of the tree when `tokens` have been committed: the last of them is the new root."""
        if not tokens:
            return self
        new_root = self.find(tokens)
        return TokenTree() if new_root is None else self._below(new_root, self._descendants(new_root))

    def check(self, vocab_size: int, max_nodes: int) -> None:
        """Raises WireError unless the arrays are a tree of at most `max_nodes` tokens below `vocab_size`."""
        n = len(self.tokens)
        if not n == len(self.parents) == len(self.edges) == len(self.sources):
            raise WireError("token tree: arrays of different length")
        if n > max_nodes:
            raise WireError(f"token tree: {n} nodes, the limit is {max_nodes}")
        siblings: set[tuple[int, int]] = set()
        for i, (token, parent, edge) in enumerate(zip(self.tokens, self.parents, self.edges, strict=True)):
            if not 0 <= token < vocab_size:
                raise WireError(f"token tree: node {i} has token {token}, outside the vocabulary of {vocab_size}")
            if not ROOT <= parent < i:
                raise WireError(f"token tree: node {i} has parent {parent}; parents come before children")
            if not 0.0 <= edge <= 1.0:  # also refuses NaN
                raise WireError(f"token tree: node {i} has edge {edge}, not a probability")
            if (parent, token) in siblings:
                raise WireError(f"token tree: node {i} repeats token {token} under parent {parent}")
            siblings.add((parent, token))
