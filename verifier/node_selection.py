"""Which drafted nodes a step verifies: all nodes of all sequences compete by trusted path confidence (docs/design.md 5).

Promises: what is selected of a tree is closed under parents, lies no deeper than its request may still
go, and fits into the step's tokens and the free KV slots. Costs nothing where there are no nodes. A token that a drafter and the
sequence's own stages have under one parent is one node. Trusted confidence never rises along a path, and of siblings it adds up
to at most their parent's: stages get what the drafter leaves.
"""

from collections.abc import Callable
from collections.abc import Sequence as TypingSequence
from dataclasses import dataclass, field

import numpy as np

from drafthouse.policy.node_pricing import NodePricing
from drafthouse.policy.selection import select
from drafthouse.speculation import Speculation
from drafthouse.token_tree import ROOT, TokenTree
from verifier.draft_session import DraftSession
from verifier.local_draft import LocalDraft
from verifier.scheduler import StepPlan
from verifier.sequence import Sequence


@dataclass(slots=True)
class Candidates:
    """By node: path confidence as the drafter promises it (0: not its node), as it is trusted, and depth. The drafter's
    nodes are the first `of_drafter`."""

    tree: TokenTree
    promised: np.ndarray
    trusted: np.ndarray
    depths: np.ndarray
    of_drafter: int


@dataclass(slots=True)
class Selected:
    """By request: the trees to verify, what drafters promised of them, and how many of their first nodes are drafters'.

    In all: trusted tokens, nodes, those on offer, the best that a drafter offered.
    """

    trees: dict[str, TokenTree] = field(default_factory=dict)
    promised: dict[str, float] = field(default_factory=dict)
    of_drafter: dict[str, int] = field(default_factory=dict)
    expected_tokens: float = 0.0
    best_edge: float | None = None
    nodes: int = 0
    offered: int = 0

    def add(self, request: str, candidates: Candidates, nodes: np.ndarray) -> None:
        """Nodes ascend."""
        self.trees[request] = candidates.tree.subtree(nodes.tolist())
        self.promised[request] = float(candidates.promised[nodes].sum())
        self.of_drafter[request] = int(np.searchsorted(nodes, candidates.of_drafter))
        self.expected_tokens += float(candidates.trusted[nodes].sum())
        self.nodes += len(nodes)

    def drafters(self, request: str, accepted: TypingSequence[int]) -> tuple[float, int, int]:
        """Of one request: tokens its drafter promised, how many of the accepted are its nodes, and how many were verified."""
        count = self.of_drafter.get(request, 0)
        return self.promised.get(request, 0.0), sum(node < count for node in accepted), count


def choose_nodes(plan: StepPlan, pricing: NodePricing, wanted: Callable[[Speculation], int], limit: int) -> Selected:
    """At most `limit` nodes in all. `wanted` says how many a request of set size takes, before the others compete."""
    selected = Selected()
    pools: list[tuple[str, Candidates]] = []
    confidences_of: list[np.ndarray] = []
    for s in plan.decoding:
        if (candidates := candidates_of(s)) is None:
            continue
        confidences = _within(candidates, s.max_draft_depth)
        selected.offered += len(confidences)
        if s.request.speculation.waits:
            count = min(wanted(s.request.speculation), max(0, limit - selected.nodes))
            nodes = np.argsort(-confidences, kind="stable")[:count]
            nodes = nodes[candidates.depths[nodes] <= s.max_draft_depth]
            if len(nodes):
                selected.add(s.id, candidates, np.sort(nodes))
        else:
            pools.append((s.id, candidates))
            confidences_of.append(confidences)
    if confidences_of:
        _compete(
            selected,
            pools,
            confidences_of,
            len(plan.decoding) + selected.nodes,
            plan.prompt_tokens,
            plan.kv_tokens,
            pricing,
            limit - selected.nodes,
        )
    return selected


def _within(candidates: Candidates, max_draft_depth: int) -> np.ndarray:
    """Trusted confidences, 0 for nodes deeper than `max_draft_depth`: never worth anything, and their parents come before them."""
    return (
        candidates.trusted
        if candidates.depths.max() <= max_draft_depth
        else np.where(candidates.depths <= max_draft_depth, candidates.trusted, 0.0)
    )


def _compete(
    selected: Selected, pools: list[tuple[str, Candidates]], confidences_of: list[np.ndarray], base: int, prompt_tokens: int,
    kv_tokens: int, pricing: NodePricing, limit: int,
) -> None:  # fmt: skip
    confidences = np.concatenate(confidences_of)
    best = [
        float(each[: candidates.of_drafter].max())
        for (_, candidates), each in zip(pools, confidences_of, strict=True)
        if candidates.of_drafter
    ]
    selected.best_edge = max(best, default=None)
    taken = select(confidences, base, prompt_tokens, kv_tokens, pricing.value_of_a_second, pricing.latency, limit)
    picked = np.sort(taken).astype(np.int64)
    ends = np.cumsum([len(each) for each in confidences_of])
    cuts = np.searchsorted(picked, ends)
    first = start = 0
    for (request, candidates), cut, end in zip(pools, cuts.tolist(), ends.tolist(), strict=True):
        if cut > first:
            selected.add(request, candidates, picked[first:cut] - start)
        first, start = cut, end


def candidates_of(sequence: Sequence) -> Candidates | None:
    link, local = sequence.draft_session, sequence.local
    if local is not None and len(local.growing):
        return _merged(link, local)
    if link is None or not len(link.tree):
        return None
    return Candidates(link.tree, link.confidences, link.confidences * link.trust, link.depths, len(link.tree))


def _merged(link: DraftSession | None, local: LocalDraft) -> Candidates:
    own = local.growing.tree
    if link is None:
        confidences = np.array(local.growing.confidences)
        return Candidates(own, np.zeros(len(own)), confidences, np.array(local.growing.depths), 0)
    first = len(link.tree)
    tree = link.tree.subtree(range(first))
    trusted = (link.confidences * link.trust).tolist()
    left = {ROOT: 1.0} | dict(enumerate(trusted))  # of each node's confidence, what its children do not take
    for parent, confidence in zip(tree.parents, trusted, strict=True):
        left[parent] -= confidence
    index = {ROOT: ROOT}
    for node, (token, parent) in enumerate(zip(own.tokens, own.parents, strict=True)):
        above = index[parent]
        index[node] = i = tree.add(token, above, own.edges[node], own.sources[node])
        if i == len(trusted):
            confidence = max(0.0, min(left[above], own.edges[node] * (1.0 if above == ROOT else trusted[above])))
            trusted.append(confidence)
            left[above] -= confidence
            left[i] = confidence
    promised = np.concatenate([link.confidences, np.zeros(len(tree) - first)])
    return Candidates(tree, promised, np.array(trusted), np.array(tree.depths()), first)
