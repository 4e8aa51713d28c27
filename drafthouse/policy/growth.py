"""What drafters grow next: which nodes are worth a pass of the draft, and which of their children a place in the tree.

Promises: drafter and simulator run this code. One pass takes the best nodes of all sessions, whichever they are of, and as many as
bring most per second on the draft's latency curve; catch-ups come first, since without them nothing can be drafted. A drafter with
nothing left to grow that is worth its price grows ahead: below nodes that the target may be verifying, where the commit may land.
Prices, confidences and promises are in tokens.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from drafthouse.policy.latency import LatencyModel

NEGLIGIBLE_CONFIDENCE = 0.005
"""Nodes below it are not worth their bytes at any price."""

ScoredNode = tuple[float, int]
"""(path confidence, node)."""


AHEAD_CONFIDENCE = 0.01
"""A commit that lands where it does less often is not prepared for."""


class GrowthThreshold(NamedTuple):
    """What nodes must promise: `least` is the path confidence that is worth verifying now; `ahead`, whether to grow below it.

    The tree that a commit leaves hangs below its last token, and confidences there are those of now divided by
    that token's. A node that is not verified is where the commit lands with the probability of its own path.
    So nodes below the price compete for idle passes by path confidence as all others do, and what lies
    below one of them is worth growing if it will be worth its price once the commit has landed there.
    """

    least: float
    ahead: bool

    @classmethod
    def at(cls, min_confidence: float, ahead: bool) -> "GrowthThreshold":
        """When a node must promise `min_confidence`; where that is a whole token, none will be worth it after the next commit either."""
        return cls(max(min_confidence, NEGLIGIBLE_CONFIDENCE), ahead and min_confidence < 1.0)

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

    now: list[ScoredNode]
    ahead: list[ScoredNode]


def worth_a_pass(unexpanded: Iterable[tuple[float, int, float]], expected_children: float, threshold: GrowthThreshold) -> Frontier:
    """Of (path confidence, node, landing), those whose children together may reach what is asked."""
    now: list[ScoredNode] = []
    ahead: list[ScoredNode] = []
    for confidence, node, landing in unexpanded:
        children = confidence * expected_children
        if children > threshold.least:
            now.append((confidence, node))
        elif threshold.ahead and children > threshold.place(landing):
            ahead.append((confidence, node))
    return Frontier(sorted(now, key=_best_first), sorted(ahead, key=_best_first))


def worth_a_place(confidence: float, edges: Sequence[float], least: float, max_children: int) -> Iterator[int]:
    """Ranks of the children, of a node of this path confidence, that reach `least`; at most `max_children`."""
    return islice((rank for rank, edge in enumerate(edges) if confidence * edge >= least), max(0, max_children))


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


def _same(session: object) -> float:
    return 1.0


class PassBudget(NamedTuple):
    """Of one pass: at most `tokens` of catch-ups, and at most as many tree nodes. It takes the nodes that bring most in its time."""

    tokens: int
    latency: LatencyModel

    def plan(self, sessions: Iterable[S], worth: Callable[[S], float] = _same) -> list[tuple[S, list[ScoredNode]]]:
        """Sessions of the next pass with the nodes to expand, ascending; none for a catch-up of at most `tokens`. `worth`: of a
        session's tokens, beside those of the others; what it is worth most to comes first."""
        left, catch_ups, growing = self.tokens, [], []
        for session in sorted(sessions, key=lambda session: -worth(session)):
            if session.missing:
                if left > 0:
                    catch_ups.append(session)
                    left -= session.missing
            else:
                growing.append(session)
        frontiers = [session.frontier.now for session in growing]
        if not catch_ups and not any(frontiers):
            frontiers = [session.frontier.ahead for session in growing]
        ranked = heapq.merge(*(_keyed(i, each, worth(growing[i]) * growing[i].expected_children) for i, each in enumerate(frontiers)))
        best = list(islice(ranked, self.tokens))
        chosen: dict[int, list[ScoredNode]] = {}
        base_value = sum(worth(session) * session.expected_children for session in catch_ups)
        for _, index, candidate in best[: self._size(best, growing, catch_ups, base_value)]:
            chosen.setdefault(index, []).append(candidate)
        nodes = [(growing[i], sorted(candidates, key=lambda c: c[1])) for i, candidates in chosen.items()]
        return [(session, []) for session in catch_ups] + nodes

    def _size(
        self, best: Sequence[tuple[tuple[float, int], int, ScoredNode]], growing: Sequence[S], catch_ups: Sequence[S], base_value: float
    ) -> int:
        """How many of `best` the pass takes. A node costs its tokens' time, and the first of a session that of reading its KV, too."""
        values, kv_tokens, seen = [], [], set[int]()
        for (negative, _), index, _ in best:
            values.append(-negative)
            kv_tokens.append(0 if index in seen else growing[index].kv_tokens)
            seen.add(index)
        base = sum(min(session.missing, self.tokens) for session in catch_ups)
        base_kv = sum(session.kv_tokens for session in catch_ups)
        return pass_size(values, kv_tokens, self.latency, base, base_kv, base_value)

    def announcement(self, session: Growing) -> tuple[float, float]:
        """Seconds until the session's next nodes, and accepted tokens that they promise; zeros when none are planned."""
        if session.missing:
            chunks = -(-session.missing // self.tokens)
            in_all = session.kv_tokens + session.missing
            return chunks * self.latency.seconds(min(session.missing, self.tokens), in_all), session.expected_children
        values = [session.expected_children * c for c, _ in session.frontier.now[: self.tokens]]
        if not values:
            return 0.0, 0.0
        count = pass_size(values, [session.kv_tokens] + [0] * (len(values) - 1), self.latency)
        return self.latency.seconds(count, session.kv_tokens), sum(values[:count])


def pass_size(
    values: Sequence[float], kv_tokens: Sequence[int], latency: LatencyModel, base: int = 0, base_kv: int = 0, base_value: float = 0.0
) -> int:
    """How many of the nodes with these `values`, best first, a pass takes: the number that brings most tokens per second,

        (base_value + v1 + ... + vn) / T(base + n, base_kv + k1 + ... + kn),

    where it brings `base` tokens of catch-ups anyway. Nodes that are left stay for the next pass, beside the children of these, so
    what counts is the rate. All n are looked at: curves have steps.
    """
    if len(values) <= 1:
        return len(values)
    per_kv_token = latency.seconds(1, 1) - latency.seconds(1, 0)
    times = latency.times(base + 1, base + len(values), base_kv) + per_kv_token * np.cumsum(kv_tokens)
    rates: np.ndarray = (base_value + np.cumsum(values)) / times
    return int(np.argmax(rates)) + 1


def _best_first(candidate: ScoredNode) -> tuple[float, int]:
    return -candidate[0], candidate[1]


def _keyed(index: int, frontier: Sequence[ScoredNode], expected_children: float) -> Iterator[tuple[tuple[float, int], int, ScoredNode]]:
    """By falling value; equal candidates of two sessions go to the first of them."""
    return (((-expected_children * c, node), index, (c, node)) for c, node in frontier)
