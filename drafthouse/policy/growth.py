"""What drafters grow next: which nodes are worth a pass of the draft, and which of their children a place in the tree.

Promises: drafter and simulator run this code. One pass takes the best nodes of all sessions, whosever
they are; catch-ups come first, since without them nothing can be drafted. A drafter with nothing left to
grow that is worth its price grows ahead: below nodes that the target may be verifying, where the commit
may land. Prices, confidences and promises are in tokens.
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


AHEAD_CONFIDENCE = 0.01
"""A commit that lands where it does less often is not prepared for."""


class Asked(NamedTuple):
    """What nodes must promise: `least` is the path confidence that is worth verifying now; `ahead`, whether to grow below it.

    The tree that a commit leaves hangs below its last token, and confidences there are those of now divided by
    that token's. A node that is not verified is where the commit lands with the probability of its own path.
    So nodes below the price compete for idle passes by path confidence as all others do, and what lies
    below one of them is worth growing if it will be worth its price once the commit has landed there.
    """

    least: float
    ahead: bool

    @classmethod
    def at(cls, price: float, ahead: bool) -> "Asked":
        """When a node costs `price`."""
        return cls(max(price, MIN_CONFIDENCE), ahead)

    def landing(self, confidence: float, above: float) -> float:
        """1 for a node worth verifying; below, the probability that the commit lands on its branch. `above`: its parent's (1: the root)."""
        return above if above < 1.0 else 1.0 if confidence >= self.least else confidence

    def place(self, landing: float) -> float:
        """Path confidence that a child needs for a place in the tree, below a node of this landing."""
        if not self.ahead:
            return self.least
        return min(self.least, AHEAD_CONFIDENCE) if landing == 1.0 else max(AHEAD_CONFIDENCE, self.least * landing)


class Frontier(NamedTuple):
    """Nodes to run the draft on, best first: those that may bring children worth verifying `now`, and those `ahead`."""

    now: list[Candidate]
    ahead: list[Candidate]


def worth_a_pass(unexpanded: Iterable[tuple[float, int, float]], expected_children: float, asked: Asked) -> Frontier:
    """Of (path confidence, node, landing), those whose children together may reach what is asked."""
    now: list[Candidate] = []
    ahead: list[Candidate] = []
    for confidence, node, landing in unexpanded:
        children = confidence * expected_children
        if children > asked.least:
            now.append((confidence, node))
        elif asked.ahead and children > asked.place(landing):
            ahead.append((confidence, node))
    return Frontier(sorted(now, key=_best_first), sorted(ahead, key=_best_first))


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
    def frontier(self) -> Frontier:
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
            if session.missing:
                if left > 0:
                    catch_ups.append(session)
                    left -= session.missing
            else:
                growing.append(session)
        frontiers = [session.frontier.now for session in growing]
        if not catch_ups and not any(frontiers):
            frontiers = [session.frontier.ahead for session in growing]
        chosen: dict[int, list[Candidate]] = {}
        for _, index, candidate in islice(heapq.merge(*(_keyed(i, each) for i, each in enumerate(frontiers))), self.nodes):
            chosen.setdefault(index, []).append(candidate)
        nodes = [(growing[i], sorted(candidates, key=lambda c: c[1])) for i, candidates in chosen.items()]
        return [(session, []) for session in catch_ups] + nodes

    def announcement(self, session: Growing, latency: LatencyModel) -> tuple[float, float]:
        """Seconds until the session's next nodes, and accepted tokens that they promise; zeros when none are planned."""
        if session.missing:
            chunks = -(-session.missing // self.prefill_tokens)
            in_all = session.kv_tokens + session.missing
            return chunks * latency.seconds(min(session.missing, self.prefill_tokens), in_all), session.expected_children
        best = session.frontier.now[: self.nodes]
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

    def add_children(self, parent: int, ranking: Ranking, asked: Asked, limits: TreeLimits) -> int:
        """Adds those that are worth a place; returns how many."""
        self.rankings[parent] = ranking
        confidence, before = self._confidence(parent), len(self.tree)
        for rank in worth_a_place(confidence, ranking.edges, asked.place(self._landing(parent, asked)), limits.nodes - before):
            self._add(parent, ranking, rank)
        return len(self.tree) - before

    def readmit(self, asked: Asked, limits: TreeLimits) -> int:
        """Adds children that found no place when they were ranked, best first, as far as they are worth one now: a commit
        raises the confidence of all below it and makes room. Returns how many."""
        present = set(zip(self.tree.parents, self.tree.tokens, strict=True))
        places = [asked.place(landing) for landing in self._landings(asked)] + [asked.place(1.0)]  # the root's is the last, at -1
        left_out = [
            (confidence * edge, parent, rank)
            for parent, ranking in self.rankings.items()
            if (confidence := self._confidence(parent)) >= places[parent]
            for rank, edge in enumerate(ranking.edges)
            if confidence * edge >= places[parent] and (parent, ranking.tokens[rank]) not in present
        ]
        left_out.sort(key=lambda each: (-each[0], *each[1:]))
        before = len(self.tree)
        for _, parent, rank in left_out[: max(0, limits.nodes - before)]:
            self._add(parent, self.rankings[parent], rank)
        return len(self.tree) - before

    def _landings(self, asked: Asked) -> list[float]:
        landings: list[float] = []
        for parent, confidence in zip(self.tree.parents, self.confidences, strict=True):
            landings.append(asked.landing(confidence, 1.0 if parent == ROOT else landings[parent]))
        return landings

    def _landing(self, node: int, asked: Asked) -> float:
        """Of one node: the confidence of the first of its path that is not worth verifying."""
        landing = 1.0
        while node != ROOT and self.confidences[node] < asked.least:
            landing, node = self.confidences[node], self.tree.parents[node]
        return landing

    def _confidence(self, node: int) -> float:
        return 1.0 if node == ROOT else self.confidences[node]

    def _add(self, parent: int, ranking: Ranking, rank: int) -> None:
        edge = ranking.edges[rank]
        if self.tree.add(ranking.tokens[rank], parent, edge, ranking.source) < len(self.depths):
            self.confidences = self.tree.path_confidences()  # known already: the larger edge counts, for all below it
            return
        self.depths.append(1 if parent == ROOT else self.depths[parent] + 1)
        self.confidences.append(self._confidence(parent) * edge)

    def frontier(self, expected_children: float, asked: Asked, limits: TreeLimits) -> Frontier:
        """Nodes worth running the draft on."""
        if len(self.tree) >= limits.nodes:
            return Frontier([], [])
        done, depths, landings = set(self.expanded), self.depths, self._landings(asked)
        unexpanded = (
            (c, node, landings[node]) for node, c in enumerate(self.confidences) if node not in done and depths[node] < limits.depth
        )
        return worth_a_pass(unexpanded, expected_children, asked)

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
