"""A sequence's session on one drafter, and the verifier's own copy of its tree.

Promises: `confidences` and `depths` belong to `tree` whenever nobody is inside a method. After a
commit the copy is re-rooted here; the drafter's snapshot replaces it when it arrives.
"""

from dataclasses import dataclass, field

from drafthouse.policy.responsiveness import Responsiveness
from drafthouse.policy.speculation_gate import SessionWorth
from drafthouse.policy.start_rule import Announcement, FirstNodes
from drafthouse.policy.trust import Standing, TrustRecord
from drafthouse.token_tree import TokenTree
from drafthouse.wire.session_messages import Grow
from drafthouse.wire.states import StatesWish
from verifier.unsent_states import UnsentStates


@dataclass(slots=True)
class DrafterRecord:
    """What a verifier knows of one drafter, whatever the session."""

    standing: Standing = field(default_factory=Standing)
    announcement_record: TrustRecord = field(default_factory=TrustRecord)  # of its announcements, whatever the target accepts
    first_nodes: FirstNodes = field(default_factory=FirstNodes)
    responsiveness: Responsiveness = field(default_factory=Responsiveness)
    sessions: int = 0
    unfit: str = ""  # why it can never draft for this verifier
    wish: StatesWish | None = None  # the states that it asks for, if the target has them

    def usable(self, now: float) -> bool:
        return not self.unfit and not self.standing.banned(now) and not self.responsiveness.hung(now)


class DraftSession:
    """`base_len` counts the committed tokens that `tree` lies below; `probe` marks a session that no step waits for."""

    def __init__(self, drafter: str, epoch: int, base_len: int, tree: TokenTree, record: DrafterRecord, price: float, probe: bool):
        """`tree` is empty, and this session's from now on."""
        self.drafter, self.epoch, self.base_len, self.tree, self.probe = drafter, epoch, base_len, tree, probe
        self.max_nodes = 0  # that its drafter may draft, as it was told when the session was opened
        self.received = 0  # nodes of the drafter's numbering that `tree` holds; 0 until its snapshot came
        self.snapshot = False  # whether the snapshot for base_len has come
        self.exhausted = False  # the drafter plans no further pass
        self.announcement: Announcement | None = None
        self._announced = False  # whether that is the drafter's own word, or what usually comes
        self.worth = SessionWorth()
        self.unsent_states = UnsentStates(record.wish) if record.wish is not None else None
        self.record, self._trust_record, self._announcement_record = record, TrustRecord(), TrustRecord()
        self._first_nodes: FirstNodes = record.first_nodes.copy()
        self._price = price  # of a node, when the drafter was last told; what a node promises beyond it is its worth
        self._committed_at: float | None = None  # of the last commit, until the first nodes after it have come
        self._measure()

    def __repr__(self) -> str:
        return repr((self.drafter, self.epoch, self.base_len, self.tree, self.received, self.snapshot, self.exhausted, self.announcement))

    def _measure(self) -> None:
        self.depths, self.confidences = self.tree.depths_and_confidences()

    @property
    def trust(self) -> float:
        """Share of what is promised here that usually comes true."""
        return self._trust_record.given(self.record.standing.trust_record.ratio)

    @property
    def announcement_trust(self) -> float:
        """Share of what is announced here that usually comes in time."""
        return self._announcement_record.given(self.record.announcement_record.ratio)

    def _net(self) -> float:
        """What the nodes at hand promise beyond their price, in tokens."""
        if not self.confidences:
            return 0.0
        trust, price = self.trust, self._price
        return sum([worth for confidence in self.confidences if (worth := trust * confidence - price) > 0.0])

    def commit(self, tokens: list[int], price: float, now: float) -> None:
        """Re-roots the copy and expects the drafter's nodes when they usually come."""
        self._miss(now)
        self.tree = self.tree.reroot(tokens)
        self.base_len += len(tokens)
        self.received, self.snapshot, self.exhausted = 0, False, False
        self._price, self._committed_at = price, now
        self._measure()
        self.announcement, self._announced = (
            self._first_nodes.expect(len(self.confidences) > 0, now, self.record.first_nodes.seconds),
            False,
        )

    def verified(self, promised: float, accepted: int, nodes: int, price: float) -> None:
        """What came of this sequence's nodes in a step."""
        self.worth.observe(promised * self.trust - price * nodes)
        if nodes:
            self._trust_record.observe(promised, accepted)
            self.record.standing.observe(promised, accepted)
        else:
            self._trust_record.rest()

    def graft(self, message: Grow, committed: list[int], vocab_size: int, limit: int, now: float) -> int:
        """Takes a Grow in; returns how many nodes are new here. Raises what `take_nodes` does."""
        late, before, net_before = message.base_len < self.base_len, len(self.confidences), self._net()
        self.take_nodes(message, committed, vocab_size, limit)
        self._measure()
        if not late:
            self.exhausted = message.next_pass_eta_us == 0
            self._learn(before > 0, len(message.nodes) > 0, self._net() - net_before, now)
            self._announce(message, now)
        return max(0, len(self.confidences) - before)

    def take_nodes(self, message: Grow, committed: list[int], vocab_size: int, limit: int) -> None:
        """Into the copy. A late message, of an older base_len, is re-rooted by its token path; what leaves the committed path falls away.

        Raises ValueError if indices do not follow what was received, WireError if it is no tree.
        """
        if message.first_node == 0:
            message.nodes.check(vocab_size, limit)
        if message.base_len > self.base_len:
            raise ValueError(f"grow at {message.base_len}, but only {self.base_len} tokens are committed")
        if message.base_len < self.base_len:
            if message.first_node == 0 and not self.snapshot:  # appended nodes refer to a snapshot that is gone
                self._merge(message.nodes.reroot(committed[message.base_len : self.base_len]))
            return
        if message.first_node == 0:
            self.snapshot, self.tree = True, message.nodes
        elif message.first_node != self.received:
            raise ValueError(f"grow from node {message.first_node}, but {self.received} were received")
        else:
            _extend(self.tree, message.nodes)
            self.tree.check(vocab_size, limit)
        self.received = len(self.tree)

    def _learn(self, had_nodes: bool, has_nodes: bool, gain: float, now: float) -> None:
        """What the first nodes after a commit brought and when; and what became of the drafter's own announcement."""
        gain = max(0.0, gain)
        if self._announced and self.announcement is not None and has_nodes:
            self._keep(self.announcement, gain if now <= self.announcement.void_at else 0.0)
        if self._committed_at is not None and (gain > 0.0 or self.exhausted):
            self._observe_first_nodes(had_nodes, now - self._committed_at, gain)

    def _miss(self, now: float) -> None:
        """What should have come by now, and has not, counts as nothing; what has had no time to come says nothing."""
        a = self.announcement
        if a is None or now <= a.void_at:
            return
        if self._announced:
            self._keep(a, 0.0)
        elif self._committed_at is not None:
            self._observe_first_nodes(len(self.confidences) > 0, now - self._committed_at, 0.0)

    def _keep(self, announcement: Announcement, gain: float) -> None:
        for record in (self._announcement_record, self.record.announcement_record):
            record.observe(announcement.tokens, gain)

    def _observe_first_nodes(self, had_nodes: bool, seconds: float, gain: float) -> None:
        for first_nodes in (self._first_nodes, self.record.first_nodes):
            first_nodes.observe(had_nodes, seconds, gain)
        self._committed_at = None

    def _announce(self, message: Grow, now: float) -> None:
        next_pass_at = now + message.next_pass_eta_us / 1e6
        self.announcement = Announcement(now, next_pass_at, message.next_pass_expected_tokens) if message.next_pass_eta_us else None
        self._announced = True

    def expected(self, max_draft_depth: int) -> Announcement | None:
        """What is announced, as far as announcements here come true, for a request that may still take `max_draft_depth` drafted tokens."""
        a = self.announcement
        if a is None or self.exhausted or self.probe or max_draft_depth <= 0:
            return None
        tokens = min(float(max_draft_depth), a.tokens * self.announcement_trust if self._announced else a.tokens)
        return a if tokens == a.tokens else Announcement(a.made, a.next_pass_at, tokens)

    def _merge(self, other: TokenTree) -> None:
        index = {-1: -1}
        for i in range(len(other)):
            index[i] = self.tree.add(other.tokens[i], index[other.parents[i]], other.edges[i], other.sources[i])


def _extend(tree: TokenTree, nodes: TokenTree) -> None:
    tree.tokens += nodes.tokens
    tree.parents += nodes.parents
    tree.edges += nodes.edges
    tree.sources += nodes.sources
