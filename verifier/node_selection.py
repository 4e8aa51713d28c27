"""Which drafted nodes a step verifies: all nodes of all sequences compete by trusted path confidence (docs/design.md 5).

Promises: what is selected of a tree is closed under parents, lies no deeper than its request may still
go, and fits into the step's tokens and the free KV slots. Costs nothing where there are no nodes. A token that a drafter and the
sequence's own stages have under one parent is one node. Trusted confidence never rises along a path, and of siblings it adds up
to at most their parent's: stages get what the drafter leaves.
"""

from collections.abc import Callable
from collections.abc import Sequence as TypingSequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np

from drafthouse.engine.tree_rows import TreeRows, tree_rows
from drafthouse.policy.node_pricing import NodePricing
from drafthouse.policy.selection import select
from drafthouse.speculation import Speculation
from drafthouse.stages.build import FORCED
from drafthouse.token_tree import ROOT, TokenTree
from verifier.draft_session import DraftSession
from verifier.local_draft import LocalDraft
from verifier.scheduler import StepPlan
from verifier.sequence import Sequence

NONE = np.zeros(0, dtype=np.int64)
NO_CONFIDENCES = np.zeros(0, dtype=np.float64)


@dataclass(slots=True)
class Candidates:
    """Of one sequence. By node: path confidence as the drafter promises it (0: not its node), as it is trusted but for the factor `trust`
    of all, and depth. The drafter's nodes are the first `of_drafter`."""

    tree: TokenTree
    promised: TypingSequence[float]
    trusted: TypingSequence[float]
    depths: TypingSequence[int]
    of_drafter: int
    trust: float = 1.0


@dataclass(slots=True)
class Selected:
    """The trees on offer, by their sequences' places in the plan, and which of their nodes, counted through all of them, are verified.

    By place: nodes, what drafters promised of them, and how many of them, the first ones, are drafters'. In all: trusted tokens, nodes,
    those on offer, the best that a drafter offered. `trusted`: path confidence of each node on offer.
    """

    trees: list[TokenTree] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    picked: np.ndarray = field(default_factory=lambda: NONE)
    counts: list[int] = field(default_factory=list)
    promised: list[float] = field(default_factory=list)
    of_drafter: list[int] = field(default_factory=list)
    expected_tokens: float = 0.0
    best_edge: float | None = None
    nodes: int = 0
    offered: int = 0
    trusted: np.ndarray = field(default_factory=lambda: NO_CONFIDENCES)

    def rows(self, roots: TypingSequence[int]) -> TreeRows:
        """With the root of each sequence."""
        return tree_rows(roots, self.trees, self.places, self.picked)

    def drafters(self, place: int) -> tuple[float, int]:
        """Tokens that its drafter promised, and nodes of the drafter's that are verified; nothing of a prompt."""
        return (self.promised[place], self.of_drafter[place]) if place < len(self.counts) else (0.0, 0)

    def by_place(self) -> dict[int, tuple[TokenTree, list[int]]]:
        """The trees on offer, and the nodes of each that are verified, ascending and in its own numbering: as long as no tree has grown."""
        found, first, node = {}, 0, 0
        for place, tree in zip(self.places, self.trees, strict=True):
            end = first + self.counts[place]
            found[place] = tree, (self.picked[first:end] - node).tolist()
            first, node = end, node + len(tree)
        return found


class Offers:
    """All candidates of a step, flat."""

    def __init__(self, plan: StepPlan):
        pools = [(place, candidates) for place, s in enumerate(plan.decoding) if (candidates := candidates_of(s)) is not None]
        self.places, self.pools = [place for place, _ in pools], [candidates for _, candidates in pools]
        sizes = [len(each.depths) for each in self.pools]
        self.ends = np.cumsum(sizes).tolist()
        self.owner = np.repeat(np.array(self.places, dtype=np.int64), sizes)
        self.promised = _flat([c.promised for c in self.pools], sizes)
        alone = all(c.trusted is c.promised for c in self.pools)  # of drafters alone
        trusted = self.promised if alone else _flat([c.trusted for c in self.pools], sizes)
        trusted = trusted * np.repeat([c.trust for c in self.pools], sizes)
        depths_left = [plan.decoding[place].max_draft_depth for place in self.places]
        self.within = np.ones(len(self.owner), dtype=bool)
        if any(left < size for left, size in zip(depths_left, sizes, strict=True)):  # no node lies deeper than there are nodes
            self.within = _flat([c.depths for c in self.pools], sizes) <= np.repeat(depths_left, sizes)
        self.trusted = np.where(self.within, trusted, 0.0)  # what lies too deep is worth nothing, and its parents come before it
        drafters = np.repeat([c.of_drafter for c in self.pools], sizes)
        self.of_drafter = np.arange(len(self.owner)) - np.repeat(np.array(self.ends) - sizes, sizes) < drafters

    def best_of_size(self, pool: int, count: int) -> np.ndarray:
        """The `count` best nodes of one tree, without those that lie too deep."""
        first, end = self.ends[pool] - len(self.pools[pool].depths), self.ends[pool]
        nodes = first + np.argsort(-self.trusted[first:end], kind="stable")[:count]
        return nodes[self.within[nodes]]

    def selected(self, picked: np.ndarray, best_edge: float | None, sequences: int) -> Selected:
        """`picked` in any order; `sequences` is how many decode."""
        picked = np.sort(picked)
        owner, drafters = self.owner[picked], self.of_drafter[picked]
        return Selected(
            [candidates.tree for candidates in self.pools], self.places, picked,
            np.bincount(owner, minlength=sequences).tolist(),
            np.bincount(owner, self.promised[picked], minlength=sequences).tolist(),
            np.bincount(owner[drafters], minlength=sequences).tolist(),
            float(self.trusted[picked].sum()), best_edge, len(picked), len(self.owner), self.trusted,
        )  # fmt: skip


def choose_nodes(plan: StepPlan, pricing: NodePricing, wanted: Callable[[Speculation], int], limit: int) -> Selected:
    """At most `limit` nodes in all. `wanted` says how many a request of set size takes, before the others compete."""
    offers, sequences = Offers(plan), len(plan.decoding)
    if not offers.pools:
        return Selected(counts=[0] * sequences, promised=[0.0] * sequences, of_drafter=[0] * sequences)
    taken, of_set_size = NONE, []
    for pool, place in enumerate(offers.places):
        if (speculation := plan.decoding[place].request.speculation).waits:
            of_set_size.append(place)
            taken = np.concatenate([taken, offers.best_of_size(pool, min(wanted(speculation), max(0, limit - len(taken))))])
    competing = np.arange(len(offers.owner))
    if of_set_size:
        competing = competing[~np.isin(offers.owner, of_set_size)]
    gains, best_edge = offers.trusted[competing], None
    if len(competing):
        if not pricing.even:  # one factor for a whole tree, so what is best stays closed under parents
            gains = gains * np.array([pricing.relative(s.worth) for s in plan.decoding])[offers.owner[competing]]
        of_drafters = gains[offers.of_drafter[competing]]
        best_edge = float(of_drafters.max()) if len(of_drafters) else None
        value, base = pricing.value_of_a_second, sequences + len(taken)
        best = select(gains, base, plan.prompt_tokens, plan.kv_tokens, value, pricing.latency, limit - len(taken))
        taken = np.concatenate([taken, competing[best]])
    return offers.selected(taken, best_edge, sequences)


def _flat(lists: TypingSequence[TypingSequence[float]], sizes: TypingSequence[int]) -> np.ndarray:
    return np.fromiter(chain.from_iterable(lists), np.float64, sum(sizes))


def candidates_of(sequence: Sequence) -> Candidates | None:
    link, local = sequence.draft_session, sequence.local
    if local is not None and len(local.growing):
        return _merged(link, local)
    if link is None or not link.confidences:
        return None
    return Candidates(link.tree, link.confidences, link.confidences, link.depths, len(link.depths), link.trust)


def _merged(link: DraftSession | None, local: LocalDraft) -> Candidates:
    own = local.growing.tree
    if link is None:
        return Candidates(own, [0.0] * len(own), local.growing.confidences, local.growing.depths, 0)
    first = len(link.tree)
    tree = link.tree.subtree(range(first))
    trust = link.trust
    trusted = [confidence * trust for confidence in link.confidences]
    left = {ROOT: 1.0} | dict(enumerate(trusted))  # of each node's confidence, what its children do not take
    for parent, confidence in zip(tree.parents, trusted, strict=True):
        left[parent] -= confidence
    index = {ROOT: ROOT}
    for node, (token, parent) in enumerate(zip(own.tokens, own.parents, strict=True)):
        above = index[parent]
        index[node] = i = tree.add(token, above, own.edges[node], own.sources[node])
        if own.sources[node] == FORCED:
            _make_certain(tree, i, trusted, left)
        elif i == len(trusted):
            confidence = max(0.0, min(left[above], own.edges[node] * (1.0 if above == ROOT else trusted[above])))
            trusted.append(confidence)
            left[above] -= confidence
            left[i] = confidence
    if FORCED in own.sources:
        for i, parent in enumerate(tree.parents):
            trusted[i] = trusted[i] if parent == ROOT else min(trusted[i], trusted[parent])
    return Candidates(tree, [*link.confidences, *[0.0] * (len(tree) - first)], trusted, tree.depths(), first)


def _make_certain(tree: TokenTree, node: int, trusted: list[float], left: dict[int, float]) -> None:
    """A grammar forces the token of `node`: it is as certain as its parent, and the parent's other children cannot come, whoever drafted
    them."""
    above = tree.parents[node]
    for i in range(len(trusted)):
        if tree.parents[i] == above and i != node:
            trusted[i] = 0.0
    certain = 1.0 if above == ROOT else trusted[above]
    left[node], left[above] = certain, 0.0
    trusted[node:] = [certain, *trusted[node + 1 :]]
