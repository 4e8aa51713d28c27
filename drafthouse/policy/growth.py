"""What drafters grow next: which nodes are worth a pass of the draft, and which of their children a place in the tree.

Promises: drafter and simulator run this code. One pass takes the best nodes of all sessions, whosever
they are; catch-ups come first, since without them nothing can be drafted. Prices, confidences and
promises are in tokens.
"""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, Protocol, TypeVar

from drafthouse.policy.latency import LatencyModel
from drafthouse.token_tree import ROOT, TokenTree

MIN_CONFIDENCE = 0.005
"""Nodes below it are not worth their bytes at any price."""

Candidate = tuple[float, int]
"""(path confidence, node)."""


def floor(price: float) -> float:
    """Path confidence below which a node is not grown, when one costs `price`."""
    return max(price, MIN_CONFIDENCE)


def worth_a_pass(unexpanded: Iterable[Candidate], expected_children: float, least: float) -> list[Candidate]:
    """Those whose children together may reach the confidence `least`, best first."""
    worth = [candidate for candidate in unexpanded if candidate[0] * expected_children > least]
    worth.sort(key=_best_first)
    return worth


def worth_a_place(confidence: float, edges: Sequence[float], least: float, room: int) -> Iterator[int]:
    """Ranks of the children, of a node of this path confidence, that reach `least`; at most `room`."""
    return islice((rank for rank, edge in enumerate(edges) if confidence * edge >= least), max(0, room))


class Growing(Protocol):
    """What planning needs to know of a session."""

    @property
    def missing(self) -> int:
        """Committed tokens without KV in the draft."""
        ...

    @property
    def kv_tokens(self) -> int:
        """Tokens with KV in the draft, committed or of the tree."""
        ...

    @property
    def expected_children(self) -> float:
        """Probability that one of the children drafted below an accepted node is accepted too."""
        ...

    @property
    def frontier(self) -> Sequence[Candidate]:
        """As `worth_a_pass` gives it; empty while tokens are missing."""
        ...


S = TypeVar("S", bound=Growing)


class PassBudget(NamedTuple):
    """Of one pass: tree nodes, and tokens of catch-ups."""

    nodes: int
    prefill_tokens: int

    def plan(self, sessions: Iterable[S]) -> list[tuple[S, list[Candidate]]]:
        """Sessions of the next pass with the nodes to expand, ascending; none for a catch-up of at most `prefill_tokens`."""
        left, catch_ups, growing = self.prefill_tokens, [], []
        for session in sessions:
            if session.frontier:
                growing.append(session)
            elif session.missing and left > 0:
                catch_ups.append(session)
                left -= session.missing
        chosen: dict[int, list[Candidate]] = {}
        for _, index, candidate in islice(heapq.merge(*(_keyed(i, s.frontier) for i, s in enumerate(growing))), self.nodes):
            chosen.setdefault(index, []).append(candidate)
        nodes = [(growing[i], sorted(candidates, key=lambda c: c[1])) for i, candidates in chosen.items()]
        return [(session, []) for session in catch_ups] + nodes

    def announcement(self, session: Growing, latency: LatencyModel) -> tuple[float, float]:
        """Seconds until the session's next nodes, and accepted tokens that they promise; zeros when none are planned."""
        if session.missing:
            chunks = -(-session.missing // self.prefill_tokens)
            in_all = session.kv_tokens + session.missing
            return chunks * latency.seconds(min(session.missing, self.prefill_tokens), in_all), session.expected_children
        best = session.frontier[: self.nodes]
        if not best:
            return 0.0, 0.0
        return latency.seconds(len(best), session.kv_tokens), session.expected_children * sum(c for c, _ in best)


def _best_first(candidate: Candidate) -> tuple[float, int]:
    return -candidate[0], candidate[1]


def _keyed(index: int, frontier: Sequence[Candidate]) -> Iterator[tuple[tuple[float, int], int, Candidate]]:
    """Equal candidates of two sessions go to the first of them."""
    return ((_best_first(candidate), index, candidate) for candidate in frontier)


@dataclass(frozen=True, slots=True)
class TreeLimits:
    """Nodes of a tree, and the depth of its deepest."""

    nodes: int
    depth: int


@dataclass(frozen=True, slots=True)
class Ranking:
    """The children that a pass ranked below one node, best first, whether or not they found a place in the tree.

    Margins as `drafthouse.choose.rank` gives them, edges as they were when the pass ran.
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

    `rankings` has what it ranked below each of them and below the root.
    """

    def __init__(self) -> None:
        self.tree = TokenTree()
        self.expanded: list[int] = []
        self.rankings: dict[int, Ranking] = {}
        self.depths: list[int] = []
        self.confidences: list[float] = []

    def __len__(self) -> int:
        return len(self.tree)

    def add_children(self, parent: int, ranking: Ranking, least: float, limits: TreeLimits) -> int:
        """Adds those that are worth a place; returns how many."""
        self.rankings[parent] = ranking
        confidence, before = self._confidence(parent), len(self.tree)
        for rank in worth_a_place(confidence, ranking.edges, least, limits.nodes - before):
            self._add(parent, ranking, rank)
        return len(self.tree) - before

    def readmit(self, least: float, limits: TreeLimits) -> int:
        """Adds children that found no place when they were ranked, best first, as far as they are worth one now: a commit
        raises the confidence of all below it and makes room. Returns how many."""
        present = set(zip(self.tree.parents, self.tree.tokens, strict=True))
        left_out = [
            (confidence * edge, parent, rank)
            for parent, ranking in self.rankings.items()
            if (confidence := self._confidence(parent)) >= least
            for rank, edge in enumerate(ranking.edges)
            if confidence * edge >= least and (parent, ranking.tokens[rank]) not in present
        ]
        left_out.sort(key=lambda each: (-each[0], *each[1:]))
        before = len(self.tree)
        for _, parent, rank in left_out[: max(0, limits.nodes - before)]:
            self._add(parent, self.rankings[parent], rank)
        return len(self.tree) - before

    def _confidence(self, node: int) -> float:
        return 1.0 if node == ROOT else self.confidences[node]

    def _add(self, parent: int, ranking: Ranking, rank: int) -> None:
        edge = ranking.edges[rank]
        if self.tree.add(ranking.tokens[rank], parent, edge, ranking.source) < len(self.depths):
            self.confidences = self.tree.path_confidences()  # known already: the larger edge counts, for all below it
            return
        self.depths.append(1 if parent == ROOT else self.depths[parent] + 1)
        self.confidences.append(self._confidence(parent) * edge)

    def frontier(self, expected_children: float, least: float, limits: TreeLimits) -> list[Candidate]:
        """Nodes worth running the draft on, best first."""
        if len(self.tree) >= limits.nodes:
            return []
        done, depths = set(self.expanded), self.depths
        unexpanded = ((c, node) for node, c in enumerate(self.confidences) if node not in done and depths[node] < limits.depth)
        return worth_a_pass(unexpanded, expected_children, least)

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

    def rankings_along(self, tokens: Sequence[int], path: Sequence[int]) -> list[Ranking]:
        """What was ranked where each of `tokens` was committed, for as many of the first as the draft had run on the node
        before; `path` as `follow` gives it."""
        found = [self.rankings.get(node) for node in [ROOT, *path][: len(tokens)]]
        return [ranking for ranking in found if ranking is not None]

    def reroot(self, tokens: Sequence[int], path: Sequence[int]) -> dict[int, int]:
        """Keeps what lies below the path `tokens`; returns the new index of each node kept, by its old one."""
        index = {old: new for new, old in enumerate(self.tree.survivors(tokens))}
        renamed = index | {path[-1]: ROOT} if len(path) == len(tokens) else index
        self.tree = self.tree.reroot(tokens)
        self.expanded = [index[node] for node in self.expanded if node in index]
        self.rankings = {renamed[node]: ranking for node, ranking in self.rankings.items() if node in renamed}
        self.depths, self.confidences = self.tree.depths(), self.tree.path_confidences()
        return index
