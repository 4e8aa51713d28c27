"""Which drafted nodes a step verifies: all nodes of all sequences compete by believed path confidence (DESIGN 5).

Promises: what is selected of a tree is closed under parents, lies no deeper than its request may still
go, and fits into the step's tokens and the free KV slots. Costs nothing where there are no nodes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from drafthouse.policy.node_pricing import Exchange
from drafthouse.policy.selection import select
from drafthouse.speculation import Speculation
from drafthouse.token_tree import TokenTree
from verifier.candidates import Offer, offer_of
from verifier.scheduler import Plan


@dataclass(slots=True)
class Selected:
    """By request: the trees to verify, what drafters promised of them, and how many of their first nodes are drafters'.

    In all: tokens believed, nodes, those on offer, the best that a drafter offered.
    """

    trees: dict[str, TokenTree] = field(default_factory=dict)
    promised: dict[str, float] = field(default_factory=dict)
    of_drafter: dict[str, int] = field(default_factory=dict)
    believed_tokens: float = 0.0
    best_offer: float | None = None
    nodes: int = 0
    offered: int = 0

    def add(self, request: str, offer: Offer, nodes: np.ndarray) -> None:
        """Nodes ascend."""
        self.trees[request] = offer.tree.subtree(nodes.tolist())
        self.promised[request] = float(offer.promised[nodes].sum())
        self.of_drafter[request] = int(np.searchsorted(nodes, offer.of_drafter))
        self.believed_tokens += float(offer.believed[nodes].sum())
        self.nodes += len(nodes)

    def drafters(self, request: str, accepted: Sequence[int]) -> tuple[float, int, int]:
        """Of one request: tokens its drafter promised, how many of the accepted are its nodes, and how many were verified."""
        count = self.of_drafter.get(request, 0)
        return self.promised.get(request, 0.0), sum(node < count for node in accepted), count


def choose_nodes(plan: Plan, kv_tokens: int, exchange: Exchange, wanted: Callable[[Speculation], int], limit: int) -> Selected:
    """At most `limit` nodes in all. `wanted` says how many a request of set size takes, before the others compete."""
    selected = Selected()
    offers: list[tuple[str, Offer]] = []
    pool: list[np.ndarray] = []
    for s in plan.decoding:
        if (offer := offer_of(s)) is None:
            continue
        confidences = _within(offer, s.room)
        selected.offered += len(confidences)
        if s.request.speculation.waits:
            count = min(wanted(s.request.speculation), max(0, limit - selected.nodes))
            nodes = np.argsort(-confidences, kind="stable")[:count]
            nodes = nodes[offer.depths[nodes] <= s.room]
            if len(nodes):
                selected.add(s.id, offer, np.sort(nodes))
        else:
            offers.append((s.id, offer))
            pool.append(confidences)
    if pool:
        _compete(
            selected, offers, pool, len(plan.decoding) + selected.nodes, plan.prompt_tokens, kv_tokens, exchange, limit - selected.nodes
        )
    return selected


def _within(offer: Offer, room: int) -> np.ndarray:
    """Believed confidences, 0 for nodes deeper than `room`: never worth anything, and their parents come before them."""
    return offer.believed if offer.depths.max() <= room else np.where(offer.depths <= room, offer.believed, 0.0)


def _compete(
    selected: Selected, offers: list[tuple[str, Offer]], pool: list[np.ndarray], base: int, prompt_tokens: int, kv_tokens: int,
    exchange: Exchange, limit: int,
) -> None:  # fmt: skip
    confidences = np.concatenate(pool)
    best = [float(each[: offer.of_drafter].max()) for (_, offer), each in zip(offers, pool, strict=True) if offer.of_drafter]
    selected.best_offer = max(best, default=None)
    picked = np.sort(select(confidences, base, prompt_tokens, kv_tokens, exchange.rate, exchange.latency, limit)).astype(np.int64)
    ends = np.cumsum([len(each) for each in pool])
    cuts = np.searchsorted(picked, ends)
    first = start = 0
    for (request, offer), cut, end in zip(offers, cuts.tolist(), ends.tolist(), strict=True):
        if cut > first:
            selected.add(request, offer, picked[first:cut] - start)
        first, start = cut, end
