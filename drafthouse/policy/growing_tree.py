"""A tree as its drafter grows it: nodes from several sources under one parent, and what each source ranked there.

Promises: a token that two sources rank under one parent is one node, of the source that promises more; siblings'
edges sum to at most 1, also where the sources together promise more. Confidences and depths always belong to the tree.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from drafthouse.policy.growth import Frontier, GrowthThreshold, ScoredNode, worth_a_pass, worth_a_place
from drafthouse.token_tree import ROOT, TokenTree


@dataclass(frozen=True, slots=True)
class TreeLimits:
    """Nodes of a tree, and the depth of its deepest."""

    nodes: int
    depth: int


@dataclass(frozen=True, slots=True)
class Ranking:
    """The children that a source ranked below one node, best first, whether or not they found a place in the tree.

    Margins as `drafthouse.choose.rank` gives them, edges as they were when it did.
    """

    source: int
    tokens: Sequence[int]
    margins: Sequence[float]
    edges: Sequence[float]

    def hit(self, token: int) -> int:
        """Rank of a token, or -1."""
        return self.tokens.index(token) if token in self.tokens else -1


class GrowingTree:
    """A token tree, the nodes that the draft has run on in the order in which it did, and each node's depth and path confidence.

    `rankings` has what was ranked below a node (ROOT: the root), by node and source.
    """

    def __init__(self) -> None:
        self.tree = TokenTree()
        self.expanded: list[int] = []
        self.rankings: dict[int, dict[int, Ranking]] = {}
        self.depths: list[int] = []
        self.confidences: list[float] = []

    def __len__(self) -> int:
        return len(self.tree)

    def add_children(self, parent: int, ranking: Ranking, threshold: GrowthThreshold, limits: TreeLimits) -> int:
        """Adds those that are worth a place; returns how many are new. What its source ranked there before counts no more."""
        again = ranking.source in self.rankings.setdefault(parent, {})
        self.rankings[parent][ranking.source] = ranking
        promised, known = self._promised(parent), set[int]()
        if again or len(self.rankings[parent]) > 1:
            known = self._reweigh(parent, promised)
        before = len(self.tree)
        new = [token for token in ranking.tokens if token not in known]
        edges = [promised[token][0] for token in new]
        for rank in worth_a_place(
            self._confidence(parent), edges, threshold.place(self._landing(parent, threshold)), limits.nodes - before
        ):
            self._add(parent, new[rank], *promised[new[rank]])
        return len(self.tree) - before

    def _promised(self, parent: int) -> dict[int, tuple[float, int]]:
        """Edge and source of each token that was ranked below `parent`: the larger edge counts. What the sources promise
        together beyond 1 is scaled down."""
        rankings = self.rankings[parent].values()
        best: dict[int, tuple[float, int]] = {}
        for ranking in rankings:
            for token, edge in zip(ranking.tokens, ranking.edges, strict=True):
                if token not in best or edge > best[token][0]:
                    best[token] = edge, ranking.source
        total = sum(edge for edge, _ in best.values())
        if len(rankings) == 1 or total <= 1.0:
            return best
        return {token: (edge / total, source) for token, (edge, source) in best.items()}

    def _reweigh(self, parent: int, promised: dict[int, tuple[float, int]]) -> set[int]:
        """Gives the children of `parent` the edges and sources promised; returns their tokens. Those that are promised no more share what
        the others leave."""
        tree, children = self.tree, self.tree.children(parent)
        left = max(0.0, 1.0 - sum(edge for edge, _ in promised.values()))
        for i in children:
            tree.edges[i], tree.sources[i] = promised.get(tree.tokens[i], (left * tree.edges[i], tree.sources[i]))
        if children:
            self.confidences = tree.path_confidences()
        return {tree.tokens[i] for i in children}

    def readmit(self, threshold: GrowthThreshold, limits: TreeLimits) -> int:
        """Adds children that found no place when they were ranked, best first, as far as they are worth one now: a commit
        raises the confidence of all below it and makes room. Returns how many."""
        present = set(zip(self.tree.parents, self.tree.tokens, strict=True))
        places = [threshold.place(landing) for landing in self._landings(threshold)] + [
            threshold.place(1.0)
        ]  # the root's is the last, at -1
        left_out = [
            (confidence * edge, parent, order, token, edge, source)
            for parent in self.rankings
            if (confidence := self._confidence(parent)) >= places[parent]
            for order, (token, (edge, source)) in enumerate(self._promised(parent).items())
            if confidence * edge >= places[parent] and (parent, token) not in present
        ]
        left_out.sort(key=lambda each: (-each[0], *each[1:]))
        before = len(self.tree)
        for _, parent, _, token, edge, source in left_out[: max(0, limits.nodes - before)]:
            self._add(parent, token, edge, source)
        return len(self.tree) - before

    def _landings(self, threshold: GrowthThreshold) -> list[float]:
        landings: list[float] = []
        for parent, confidence in zip(self.tree.parents, self.confidences, strict=True):
            landings.append(threshold.landing(confidence, 1.0 if parent == ROOT else landings[parent]))
        return landings

    def _landing(self, node: int, threshold: GrowthThreshold) -> float:
        """Of one node: the confidence of the first of its path that is not worth verifying."""
        landing = 1.0
        while node != ROOT and self.confidences[node] < threshold.least:
            landing, node = self.confidences[node], self.tree.parents[node]
        return landing

    def _confidence(self, node: int) -> float:
        return 1.0 if node == ROOT else self.confidences[node]

    def _add(self, parent: int, token: int, edge: float, source: int) -> None:
        """A child that `parent` does not have yet."""
        self.tree.add(token, parent, edge, source)
        self.depths.append(1 if parent == ROOT else self.depths[parent] + 1)
        self.confidences.append(self._confidence(parent) * edge)

    def frontier(self, expected_children: float, threshold: GrowthThreshold, limits: TreeLimits, in_turn: bool = False) -> Frontier:
        """Nodes worth running the draft on; `in_turn`: only below what it has run on."""
        if len(self.tree) >= limits.nodes:
            return Frontier([], [])
        done, depths, landings = set(self.expanded), self.depths, self._landings(threshold)
        unexpanded = (
            (c, node, landings[node])
            for node, c in enumerate(self.confidences)
            if node not in done
            and depths[node] < limits.depth
            and (not in_turn or (parent := self.tree.parents[node]) == ROOT or parent in done)
        )
        return worth_a_pass(unexpanded, expected_children, threshold)

    def unranked(
        self, source: int, first: int, expected_children: float, threshold: GrowthThreshold, limits: TreeLimits
    ) -> list[ScoredNode]:
        """Nodes from `first` on (ROOT: all, and the root) worth asking a source that has ranked nothing below them yet."""
        if len(self.tree) >= limits.nodes:
            return []
        nodes = (
            (self._confidence(node), node, self._landing(node, threshold))
            for node in range(first, len(self.tree))
            if source not in self.rankings.get(node, {}) and (node == ROOT or self.depths[node] < limits.depth)
        )
        worth = worth_a_pass(nodes, expected_children, threshold)
        return worth.now + worth.ahead

    def follow(self, tokens: Sequence[int]) -> list[int]:
        """Nodes along `tokens` as far as the tree has them."""
        nodes, node = [], ROOT
        for token in tokens:
            found = next((i for i in self.tree.children(node) if self.tree.tokens[i] == token), None)
            if found is None:
                break
            nodes.append(found)
            node = found
        return nodes

    def rankings_along(self, tokens: Sequence[int], path: Sequence[int]) -> list[dict[int, Ranking]]:
        """What each source ranked where each of the first of `tokens` was committed; `path` as `follow` gives it."""
        return [self.rankings.get(node, {}) for node in [ROOT, *path][: len(tokens)]]

    def reroot(self, tokens: Sequence[int], path: Sequence[int]) -> dict[int, int]:
        """Keeps what lies below the path `tokens`; returns the new index of each node kept, by its old one."""
        index = {old: new for new, old in enumerate(self.tree.survivors(tokens))}
        renamed = index | {path[-1]: ROOT} if len(path) == len(tokens) else index
        self.tree = self.tree.reroot(tokens)
        self.expanded = [index[node] for node in self.expanded if node in index]
        self.rankings = {renamed[node]: ranked for node, ranked in self.rankings.items() if node in renamed}
        self.depths, self.confidences = self.tree.depths_and_confidences()
        return index
