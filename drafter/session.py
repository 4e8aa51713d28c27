"""One session of the drafter: the committed tokens, the tree below them, and the draft's KV of both.

Promises: `kv` holds entries for the first `cached` committed tokens, then one for each node of
`expanded`, in that order. A node is expanded (the draft has run on it) only after its parent, so
the expanded nodes of any path are a prefix of it. The tree is not empty only while every
committed token is cached: nothing is ever drafted from a stale cache.
"""

from drafthouse.engine.kv_cache import KvSequence
from drafthouse.engine.segment import Segment, chunk
from drafthouse.errors import WireError
from drafthouse.messages import Grow, Open
from drafthouse.policy.edges import EXPECTED_CHILDREN
from drafthouse.token_tree import ROOT, TokenTree

MIN_CONFIDENCE = 0.005
"""Nodes below it are not worth their bytes at any price."""


class Session:
    def __init__(self, opened: Open, kv: KvSequence, context: int):
        self.id, self.epoch = opened.session, opened.epoch
        self.sampling, self.seed = opened.sampling, opened.seed
        self.max_nodes, self.max_depth, self.width = opened.max_nodes, opened.max_depth, opened.width
        self.context = context
        self.price = opened.price
        self.tokens = list(opened.tokens)
        self.kv = kv
        self.cached = 0
        self.tree = TokenTree()
        self.expanded: list[int] = []
        self.sent = 0  # nodes of the tree that the verifier has

    @property
    def needs_catch_up(self) -> bool:
        return self.cached < len(self.tokens)

    def floor(self) -> float:
        """Confidence below which a node is not grown."""
        return max(self.price, MIN_CONFIDENCE)

    def commit(self, base_len: int, tokens: tuple[int, ...], price: float) -> None:
        """Re-roots along the committed tokens. Raises WireError when they do not follow what is known."""
        if base_len != len(self.tokens):
            raise WireError(f"commit at {base_len}, but the session has {len(self.tokens)} tokens")
        entry_of = {node: self.cached + i for i, node in enumerate(self.expanded)}
        path = self._path_nodes(tokens)
        survivors = self.tree.survivors(tokens)
        walked = [entry_of[node] for node in path if node in entry_of]
        below = set(survivors)
        alive = [node for node in self.expanded if node in below]
        self.kv.keep(self.cached, walked + [entry_of[node] for node in alive])
        self.cached += len(walked)
        index = {old: new for new, old in enumerate(survivors)}
        self.tree = self.tree.reroot(tokens)
        self.expanded = [index[node] for node in self.expanded if node in index]
        self.tokens += tokens
        self.price = price
        self.sent = 0
        if self.needs_catch_up:
            self.tree, self.expanded = TokenTree(), []
            self.kv.truncate(self.cached)

    def _path_nodes(self, tokens: tuple[int, ...]) -> list[int]:
        """Nodes along `tokens` as far as the tree follows them."""
        nodes, node = [], ROOT
        for token in tokens:
            found = next((i for i in self.tree.children(node) if self.tree.tokens[i] == token), None)
            if found is None:
                break
            nodes.append(found)
            node = found
        return nodes

    def frontier(self) -> list[tuple[float, int]]:
        """(confidence, node) of nodes worth running the draft on: their likeliest child may be worth the price."""
        if self.needs_catch_up or len(self.tree) >= self.max_nodes:
            return []
        done, depths, floor = set(self.expanded), self.tree.depths(), self.floor()
        room = self.context - len(self.tokens)
        return [
            (confidence, node)
            for node, confidence in enumerate(self.tree.path_confidences())
            if node not in done and depths[node] < min(self.max_depth, room) and confidence * EXPECTED_CHILDREN > floor
        ]

    def expected_tokens(self, nodes: list[float]) -> float:
        """Accepted tokens that a pass over nodes of these confidences should add."""
        return EXPECTED_CHILDREN * sum(nodes)

    def catch_up_segment(self, limit: int) -> Segment:
        """The next committed tokens without KV, at most `limit`; logits of the last one if it is the root."""
        tokens = self.tokens[self.cached : self.cached + limit]
        return chunk(self.kv, tokens, self.cached, want_logits=self.cached + len(tokens) == len(self.tokens))

    def tree_segment(self, nodes: list[int]) -> Segment:
        """A pass over frontier nodes; logits of all of them."""
        depths, ancestors = self.tree.depths(), self.tree.ancestor_mask()
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
