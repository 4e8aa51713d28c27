"""One session of the drafter: the committed tokens, the tree below them, and the draft's KV of both.

Promises: the draft has seen the first `cached` committed tokens. `kv` holds an entry for each of these, without the `skipped`
ones that have left the draft's window, then one for each node of `expanded`, in that order. A node is expanded (the
draft has run on it) only after its parent, so the expanded nodes of any path are a prefix of it. The draft
runs on nodes only while every committed token is cached: it never drafts from a stale cache. A draft that reads hidden states
runs again what is committed, since the target's states have come, and then on the nodes that are left (`drafter.session_states`).
"""

from collections.abc import Sequence

from drafter.lookahead import Lookahead, path_to
from drafter.session_rules import SessionRules
from drafter.session_span import SessionSpan
from drafter.session_states import SessionStates
from drafter.stage_credit import Label, StageCredit, labels_of
from drafthouse.choose import Rows
from drafthouse.engine.kv_cache import KvSequence
from drafthouse.errors import WireError
from drafthouse.policy.calibration import Calibration
from drafthouse.policy.growing_tree import GrowingTree, Ranking, TreeLimits
from drafthouse.policy.growth import Frontier, GrowthThreshold
from drafthouse.processors.sequence_processors import SequenceProcessors
from drafthouse.stages.build import MODEL
from drafthouse.stages.session_stages import SessionStages
from drafthouse.token_tree import ROOT, TokenTree
from drafthouse.wire.session_messages import Grow, Open


class Session:
    def __init__(
        self, peer: str, opened: Open, kv: KvSequence, rules: SessionRules, calibration: Calibration, stages: SessionStages, now: float
    ):
        """`peer` is the verifier's stream that opened it. The engine sets `lookahead`, `states`, `processors`, `vocab_size`,
        `reserved_slots` and `span`."""
        self.key = peer, opened.session_id
        self.id, self.epoch = opened.session_id, opened.epoch
        self.sampling, self.seed = opened.sampling, opened.seed
        self.max_nodes, self.max_depth, self.width = opened.max_nodes, opened.max_depth, opened.width or rules.width
        self.rules, self.min_confidence, self.worth = rules, opened.min_confidence, opened.worth
        self.tokens = list(opened.tokens)
        self.kv, self.cached, self.skipped = kv, 0, 0
        self.growing = GrowingTree()
        self.calibration, self.stages = calibration, stages
        self.lookahead: Lookahead | None = None
        self.states: SessionStates | None = None  # of a draft that reads hidden states
        self.processors: SequenceProcessors | None = None
        self.vocab_size = 0  # ids below it may be drafted
        self.reserved_slots = 0
        self.span: SessionSpan | None = None  # where its verifier has one
        self.on_hold = False
        self.frontier = Frontier([], [])
        self.sent = 0  # nodes of the tree that the verifier has
        self.kept = 0  # nodes that the last commit left
        self._sent_edges: list[float] = []
        self.credit = StageCredit(stages, now)
        self.stages.follow(self.tokens)

    @property
    def tree(self) -> TokenTree:
        return self.growing.tree

    @property
    def expanded(self) -> list[int]:
        return self.growing.expanded

    @property
    def drafts(self) -> bool:
        """Whether the draft model works for this session; where no stage is beside it, it always does."""
        return self.rules.has_model and (self.credit.model_worth.working or not self.stages.working)

    @property
    def missing(self) -> int:
        """Committed tokens that the draft has to see first; none while it does not work for this session."""
        return self.runnable - self.cached if self.drafts else 0

    @property
    def runnable(self) -> int:
        """Committed tokens that the draft may run on by now."""
        return len(self.tokens) if self.states is None else self.states.runnable(len(self.tokens))

    @property
    def shares_kv(self) -> bool:
        """Not with a window, which lets entries go that another session would need."""
        return self.rules.window is None and self.kv.cache.allocator.prefixes is not None

    def begin(self) -> None:
        """Takes over what is cached of the committed tokens, at most all but the root. Only for a session that shares."""
        self.kv.adopt(self.tokens[: self.shareable])
        self.cached = len(self.kv)

    @property
    def shareable(self) -> int:
        """Leading tokens whose KV tells of these tokens alone."""
        return len(self.tokens) if self.states is None else self.states.alone

    def forget_kv(self) -> None:
        """As before `begin`."""
        self.kv.release()
        self.cached = self.skipped = 0

    @property
    def wants_pass(self) -> bool:
        return self.wants_pass_now or bool(self.frontier.ahead)

    @property
    def wants_pass_now(self) -> bool:
        return bool(self.missing or self.frontier.now)

    @property
    def held(self) -> int:
        """KV entries of committed tokens."""
        return self.cached - self.skipped

    @property
    def kv_tokens(self) -> int:
        return len(self.kv)

    @property
    def limits(self) -> TreeLimits:
        return TreeLimits(self.max_nodes, min(self.max_depth, self.rules.context - len(self.tokens)))

    @property
    def threshold(self) -> GrowthThreshold:
        return GrowthThreshold.at(self.min_confidence, self.rules.ahead)

    @property
    def expected_children(self) -> float:
        return self.calibration.expected_children(MODEL, self.width, self.sampling.temperature)

    def commit(self, base_len: int, tokens: tuple[int, ...], min_confidence: float, now: float) -> list[Label]:
        """Re-roots along the committed tokens. Returns a label for each ranking that was made where one of them was committed.

        Raises WireError when the tokens do not follow those that the session has.
        """
        if base_len != len(self.tokens):
            raise WireError(f"commit at {base_len}, but the session has {len(self.tokens)} tokens")
        entry_of = {node: self.held + i for i, node in enumerate(self.expanded)}
        path = self.growing.follow(tokens)
        labels = labels_of(self.growing, base_len, tokens, path)
        self.credit.judge(labels, base_len + len(path), len(tokens), now)
        if self.states is not None:
            self.growing.expanded, entry_of = [], {}
        walked = [entry_of[node] for node in path if node in entry_of]
        index = self.growing.reroot(tokens, path)
        self.kept = len(index)
        self.kv.keep(self.held, walked + [entry for node, entry in entry_of.items() if node in index])
        self.cached += len(walked)
        self.tokens += tokens
        self.min_confidence, self.on_hold = min_confidence, False
        self.sent, self._sent_edges = 0, []
        self._slide_window()
        self.stages.follow(tokens)
        if self.lookahead is not None:
            self.lookahead.follow(tokens)
        if self.limits.depth > 0:
            self.growing.readmit(self.threshold, self.limits)
        self.grow_stages()
        return labels

    def _slide_window(self) -> None:
        """Frees what lies between the sinks and the recent committed tokens."""
        window = self.rules.window
        if window is not None and (beyond := self.held - window.sinks - window.recent) > 0:
            self.kv.cut(window.sinks, beyond)
            self.skipped += beyond

    def grow_stages(self) -> int:
        """Lets the stages without a model add what they have; returns how many nodes are new. `refresh` is done."""
        added = self.stages.grow(self.growing, self.threshold, self.limits) if self.limits.depth > 0 else 0
        self.refresh()
        return added

    def hold(self) -> None:
        """No tree grows until the next commit; committed tokens are still caught up with."""
        self.on_hold = True
        self.refresh()

    def refresh(self) -> None:
        """The frontier again, after any change of tree or threshold."""
        grows = self.drafts and self.cached == len(self.tokens) and not self.on_hold
        in_turn = self.states is not None
        self.frontier = self.growing.frontier(self.expected_children, self.threshold, self.limits, in_turn) if grows else Frontier([], [])

    def add_children(self, parent: int, tokens: list[int], margins: list[float]) -> int:
        """Those of the draft's children that are worth a place in the tree; returns how many. `refresh` is due after the last call."""
        tokens, margins = tokens[: self.width], margins[: self.width]
        edges = self.calibration.edges(MODEL, margins, self.sampling.temperature)
        return self.growing.add_children(parent, Ranking(MODEL, tokens, margins, edges), self.threshold, self.limits)

    def rows(self, nodes: Sequence[int], guesses: TokenTree, positions: Sequence[int]) -> Rows:
        """What `choose.rank` needs for the children, at `positions`, of nodes, guesses or the root."""
        if self.processors is None:
            return Rows(self.sampling, self.seed, positions)
        paths = [[self.token(each, guesses) for each in path_to(self.growing, guesses, node)] for node in nodes]
        return Rows(self.sampling, self.seed, positions, paths, self.processors)

    def token(self, node: int, guesses: TokenTree) -> int:
        """The token of a node or a guess; guesses are numbered on from the tree's nodes."""
        return self.tree.tokens[node] if node < len(self.tree) else guesses.tokens[node - len(self.tree)]

    @property
    def sinks(self) -> int:
        return self.rules.window.sinks if self.rules.window is not None else 0

    def was_run(self, chunk: int, came_true: Sequence[int]) -> None:
        """After a pass over `chunk` committed tokens or over nodes, and over guesses. All nodes that were run must be in `expanded` by
        now, last of all the guesses that `came_true`, ascending. The KV entries of the other guesses are freed."""
        self.cached += chunk
        kept = self.held + len(self.expanded) - len(came_true)
        self.kv.keep(kept, [kept + guess for guess in came_true])
        if chunk and self.shares_kv:
            self.kv.share(self.tokens[: min(self.cached, self.shareable)])
        self._slide_window()

    def child(self, node: int, token: int) -> int | None:
        """The child of a node (ROOT: of the root) with this token."""
        return next((i for i in self.tree.children(node) if self.tree.tokens[i] == token), None)

    def may_have_children(self, node: int) -> bool:
        return node == ROOT or self.growing.depths[node] < self.limits.depth

    def restart(self) -> None:
        """Puts the session back to how it was when opened, but with all committed tokens: after a pass that failed neither its KV nor its
        tree can be relied on."""
        self.forget_kv()
        self.sent = self.kept = 0
        self.growing, self._sent_edges = GrowingTree(), []
        if self.states is not None:
            self.states.forget_own()
        self.grow_stages()

    def close(self, finished: bool) -> None:
        """The session is over; `finished`: so is the request, by itself."""
        self.kv.retire(self.tokens[: min(self.cached, self.shareable)] if self.shares_kv else ())
        self.stages.close(finished)
        if self.lookahead is not None:
            self.lookahead.close(finished)

    def grow_message(self, next_pass_eta_us: int, next_pass_expected_tokens: float) -> Grow:
        """What the verifier does not have yet, and the announcement of the next pass. When an edge that it has is another
        one now, the whole tree."""
        t = self.tree
        if t.edges[: self.sent] != self._sent_edges:
            self.sent = 0
        new = slice(self.sent, None)
        nodes = TokenTree(t.tokens[new], t.parents[new], t.edges[new], t.sources[new])
        message = Grow(self.id, self.epoch, len(self.tokens), self.sent, nodes, next_pass_eta_us, next_pass_expected_tokens)
        self.sent, self._sent_edges = len(t), list(t.edges)
        return message
