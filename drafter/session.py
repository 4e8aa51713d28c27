"""One session of the drafter: the committed tokens, the tree below them, and the draft's KV of both.

Promises: `kv` holds entries for the first `cached` committed tokens, then one for each node of
`expanded`, in that order. A node is expanded (the draft has run on it) only after its parent, so
the expanded nodes of any path are a prefix of it. The tree is not empty only while every
committed token is cached: nothing is ever drafted from a stale cache.
"""

from dataclasses import dataclass

from drafthouse.engine.kv_cache import KvSequence
from drafthouse.engine.segment import Segment, chunk
from drafthouse.errors import WireError
from drafthouse.messages import Grow, Open
from drafthouse.policy.calibration import Calibration
from drafthouse.policy.growing_tree import GrowingTree, Ranking, TreeLimits
from drafthouse.policy.growth import Asked, Frontier
from drafthouse.token_tree import ROOT, TokenTree

DRAFT_MODEL_SOURCE = 0


@dataclass(frozen=True, slots=True)
class Label:
    """A committed token, at its absolute position, and the children ranked for it; `hit` is its rank among them, or -1."""

    position: int
    ranking: Ranking
    hit: int


class Session:
    def __init__(self, peer: str, opened: Open, kv: KvSequence, context: int, width: int, calibration: Calibration, ahead: bool):
        """`peer` is whoever opened it; `width` is the drafter's own, for a session that asks for none; `ahead`: see growth.Asked."""
        self.key = peer, opened.session
        self.id, self.epoch = opened.session, opened.epoch
        self.sampling, self.seed = opened.sampling, opened.seed
        self.max_nodes, self.max_depth, self.width = opened.max_nodes, opened.max_depth, opened.width or width
        self.context = context
        self.price = opened.price
        self.tokens = list(opened.tokens)
        self.kv = kv
        self.cached = 0
        self.growing = GrowingTree()
        self.calibration = calibration
        self.ahead = ahead
        self.frontier = Frontier([], [])
        self.sent = 0  # nodes of the tree that the verifier has

    @property
    def tree(self) -> TokenTree:
        return self.growing.tree

    @property
    def expanded(self) -> list[int]:
        return self.growing.expanded

    @property
    def missing(self) -> int:
        return len(self.tokens) - self.cached

    @property
    def kv_tokens(self) -> int:
        return len(self.kv)

    @property
    def limits(self) -> TreeLimits:
        return TreeLimits(self.max_nodes, min(self.max_depth, self.context - len(self.tokens)))

    @property
    def asked(self) -> Asked:
        return Asked.at(self.price, self.ahead)

    @property
    def expected_children(self) -> float:
        return self.calibration.expected_children(DRAFT_MODEL_SOURCE, self.width, self.sampling.temperature)

    def commit(self, base_len: int, tokens: tuple[int, ...], price: float) -> list[Label]:
        """Re-roots along the committed tokens; returns what they say of the drafted ones.

        Raises WireError when they do not follow what is known.
        """
        if base_len != len(self.tokens):
            raise WireError(f"commit at {base_len}, but the session has {len(self.tokens)} tokens")
        entry_of = {node: self.cached + i for i, node in enumerate(self.expanded)}
        path = self.growing.follow(tokens)
        rankings = self.growing.rankings_along(tokens, path)
        labels = [
            Label(base_len + i, ranking, ranking.hit(token))
            for i, (token, by_source) in enumerate(zip(tokens, rankings, strict=False))
            for ranking in by_source.values()
        ]
        walked = [entry_of[node] for node in path if node in entry_of]
        index = self.growing.reroot(tokens, path)
        self.kv.keep(self.cached, walked + [entry for node, entry in entry_of.items() if node in index])
        self.cached += len(walked)
        self.tokens += tokens
        self.price = price
        self.sent = 0
        if self.missing:
            self.growing = GrowingTree()
            self.kv.truncate(self.cached)
        self.growing.readmit(self.asked, self.limits)
        self.refresh()
        return labels

    def refresh(self) -> None:
        """The frontier anew, after any change of tree or price."""
        self.frontier = Frontier([], []) if self.missing else self.growing.frontier(self.expected_children, self.asked, self.limits)

    def add_children(self, parent: int, tokens: list[int], margins: list[float]) -> int:
        """Those of the ranked children that are worth a place in the tree; returns how many. `refresh` is due after the last call."""
        tokens, margins = tokens[: self.width], margins[: self.width]
        edges = self.calibration.edges(DRAFT_MODEL_SOURCE, margins, self.sampling.temperature)
        ranking = Ranking(DRAFT_MODEL_SOURCE, tokens, margins, edges)
        return self.growing.add_children(parent, ranking, self.asked, self.limits)

    def position_below(self, node: int) -> int:
        """Absolute position of a child of `node` (ROOT: the root)."""
        return len(self.tokens) + (0 if node == ROOT else self.growing.depths[node])

    def catch_up_segment(self, limit: int) -> Segment:
        """The next committed tokens without KV, at most `limit`; logits of the last one if it is the root."""
        tokens = self.tokens[self.cached : self.cached + limit]
        return chunk(self.kv, tokens, self.cached, want_logits=self.cached + len(tokens) == len(self.tokens))

    def tree_segment(self, nodes: list[int]) -> Segment:
        """A pass over frontier nodes; logits of all of them."""
        depths, ancestors = self.growing.depths, self.tree.ancestor_mask()
        self.kv.extend(len(nodes))
        tail = self.expanded + nodes
        mask = [[ancestors[node][other] for other in tail] for node in nodes]
        root_position = len(self.tokens) - 1
        tail_positions = [root_position + depths[node] for node in tail]
        tokens = [self.tree.tokens[node] for node in nodes]
        return Segment(self.kv, tokens, tail_positions[len(self.expanded) :], range(len(nodes)), mask, tail_positions)

    def grow_message(self, eta_us: int, expected_tokens: float) -> Grow:
        """What the verifier does not have yet, and the announcement of the next pass."""
        new = slice(self.sent, None)
        t = self.tree
        nodes = TokenTree(t.tokens[new], t.parents[new], t.edges[new], t.sources[new])
        message = Grow(self.id, self.epoch, len(self.tokens), self.sent, nodes, eta_us, expected_tokens)
        self.sent = len(t)
        return message
