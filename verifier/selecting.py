"""Which drafted nodes a step verifies: all nodes of all sequences compete by believed path confidence (DESIGN 5).

Promises: what is selected of a tree is closed under parents, lies no deeper than its request may still
go, and fits into the step's tokens and the free KV slots. Costs nothing where there are no nodes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from drafthouse.policy.exchange import Exchange
from drafthouse.policy.selection import select
from drafthouse.speculation import Speculation
from drafthouse.token_tree import TokenTree
from verifier.draft_link import DraftLink
from verifier.scheduler import Plan


@dataclass(slots=True)
class Selected:
    """By request: the trees to verify and what drafters promised of them; in all: tokens believed, nodes, those on offer, the best."""

    trees: dict[str, TokenTree] = field(default_factory=dict)
    promised: dict[str, float] = field(default_factory=dict)
    believed_tokens: float = 0.0
    best_offer: float | None = None
    nodes: int = 0
    offered: int = 0

    def add(self, request: str, link: DraftLink, nodes: np.ndarray) -> None:
        """Nodes ascend."""
        promised = float(link.confidences[nodes].sum())
        self.trees[request] = link.tree.subtree(nodes.tolist())
        self.promised[request] = promised
        self.believed_tokens += promised * link.believed
        self.nodes += len(nodes)


def choose_nodes(plan: Plan, kv_tokens: int, exchange: Exchange, wanted: Callable[[Speculation], int], limit: int) -> Selected:
    """At most `limit` nodes in all. `wanted` says how many a request of set size takes, before the others compete."""
    selected = Selected()
    links: list[tuple[str, DraftLink]] = []
    pool: list[np.ndarray] = []
    for s in plan.decoding:
        if s.link is None or not len(s.link.tree):
            continue
        confidences = _within(s.link, s.room)
        selected.offered += len(confidences)
        if s.request.speculation.waits:
            count = min(wanted(s.request.speculation), max(0, limit - selected.nodes))
            nodes = np.argsort(-confidences, kind="stable")[:count]
            nodes = nodes[s.link.depths[nodes] <= s.room]
            if len(nodes):
                selected.add(s.id, s.link, np.sort(nodes))
        else:
            links.append((s.id, s.link))
            pool.append(confidences * s.link.believed)
    if pool:
        _compete(
            selected, links, pool, len(plan.decoding) + selected.nodes, plan.prompt_tokens, kv_tokens, exchange, limit - selected.nodes
        )
    return selected


def _within(link: DraftLink, room: int) -> np.ndarray:
    """The tree's confidences, 0 for nodes deeper than `room`: never worth anything, and their parents come before them."""
    return link.confidences if link.depths.max() <= room else np.where(link.depths <= room, link.confidences, 0.0)


def _compete(
    selected: Selected, links: list[tuple[str, DraftLink]], pool: list[np.ndarray], base: int, prompt_tokens: int, kv_tokens: int,
    exchange: Exchange, limit: int,
) -> None:  # fmt: skip
    confidences = np.concatenate(pool)
    selected.best_offer = float(confidences.max())
    picked = np.sort(select(confidences, base, prompt_tokens, kv_tokens, exchange.rate, exchange.latency, limit)).astype(np.int64)
    ends = np.cumsum([len(each) for each in pool])
    cuts = np.searchsorted(picked, ends)
    first = start = 0
    for (request, link), cut, end in zip(links, cuts.tolist(), ends.tolist(), strict=True):
        if cut > first:
            selected.add(request, link, picked[first:cut] - start)
        first, start = cut, end
