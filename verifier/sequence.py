"""One request inside the verifier: its tokens, its KV, and the copy of its draft tree.

Promises: `kv` holds entries for the first `len(kv)` of `tokens` between steps. One counter catches
up with another: there is no prefill mode and no decode mode. The last token is the root, pending
until a step runs it.
"""

from dataclasses import dataclass, field

import torch

from drafthouse.engine.kv_cache import KvSequence
from drafthouse.messages import GenerateReply, GenerateRequest, Grow, SpeculationUsage
from drafthouse.policy.start_rule import Announcement
from drafthouse.token_tree import TokenTree

FIRST_REPLY_S = 0.01
"""Until measured: how long a drafter takes to answer a commit."""

FIRST_REPLY_TOKENS = {True: 0.2, False: 0.7}
"""Until measured: accepted tokens that the answer adds, where the verifier's own copy still has nodes and where it has none."""

REPLY_RATE = 0.2
"""Weight of the latest answer in both moving averages."""


@dataclass(slots=True)
class DraftLink:
    """The sequence's session on one drafter, and the verifier's own copy of the tree.

    `base_len` counts the committed tokens that `tree` lies below. After a commit the copy is
    re-rooted here; the drafter's snapshot replaces it when it arrives.
    """

    drafter: str
    epoch: int
    base_len: int = 0
    tree: TokenTree = field(default_factory=TokenTree)
    received: int = 0  # nodes of the drafter's numbering that `tree` holds; 0 until its snapshot came
    snapshot: bool = False  # whether the snapshot for base_len has come
    exhausted: bool = False  # the drafter plans no further pass
    announcement: Announcement | None = None
    committed_at: float = 0.0
    reply_s: float = FIRST_REPLY_S
    reply_tokens: dict[bool, float] = field(default_factory=lambda: dict(FIRST_REPLY_TOKENS))

    def commit(self, tokens: list[int], now: float) -> None:
        """Re-roots the copy and expects the drafter's answer when it usually comes."""
        self.tree = self.tree.reroot(tokens)
        self.base_len += len(tokens)
        self.received, self.snapshot, self.exhausted = 0, False, False
        self.committed_at = now
        self.announcement = Announcement(now, now + self.reply_s, self.reply_tokens[len(self.tree) > 0])

    def graft(self, message: Grow, committed: list[int], now: float) -> int:
        """Takes a Grow in; returns how many nodes are new here.

        A late one, of an older base_len, is re-rooted by its token path; what leaves the committed
        path falls away. Raises ValueError if indices do not follow what was received.
        """
        behind = self.base_len - message.base_len
        before = len(self.tree)
        if behind > 0:
            if message.first_index == 0 and not self.snapshot:  # appended nodes refer to a snapshot that is gone
                old = message.nodes.reroot(committed[message.base_len : self.base_len])
                self._merge(old)
            return len(self.tree) - before
        if behind < 0:
            raise ValueError(f"grow at {message.base_len}, but only {self.base_len} tokens are committed")
        if message.first_index == 0:
            if not self.snapshot and self.committed_at:
                self._observe_reply(message, now)
            self.snapshot, self.tree = True, message.nodes
        elif message.first_index != self.received:
            raise ValueError(f"grow from node {message.first_index}, but {self.received} were received")
        else:
            _extend(self.tree, message.nodes)
        self.received = len(self.tree)
        self.exhausted = message.eta_us == 0
        due = now + message.eta_us / 1e6
        self.announcement = Announcement(now, due, message.expected_tokens) if message.eta_us else None
        return max(0, len(self.tree) - before)

    def _observe_reply(self, message: Grow, now: float) -> None:
        """What the first answer to a commit brought, beyond the copy that was re-rooted here, and how long it took."""
        own = sum(self.tree.path_confidences())
        gain = (
            max(0.0, sum(message.nodes.path_confidences()) - own)
            if own
            else sum(message.nodes.path_confidences()) + message.expected_tokens
        )
        self.reply_s += REPLY_RATE * (now - self.committed_at - self.reply_s)
        self.reply_tokens[own > 0] += REPLY_RATE * (gain - self.reply_tokens[own > 0])

    def _merge(self, other: TokenTree) -> None:
        index = {-1: -1}
        for i in range(len(other)):
            index[i] = self.tree.add(other.tokens[i], index[other.parents[i]], other.edges[i], other.sources[i])


def _extend(tree: TokenTree, nodes: TokenTree) -> None:
    tree.tokens += nodes.tokens
    tree.parents += nodes.parents
    tree.edges += nodes.edges
    tree.sources += nodes.sources


class Sequence:
    def __init__(self, request: GenerateRequest, kv: KvSequence, seen: torch.Tensor | None):
        self.request = request
        self.tokens = [*request.prompt, *request.emitted]
        self.prompt_len = len(request.prompt)
        self.kv = kv
        self.seen = seen  # bool [vocab], only with a repetition penalty
        self.link: DraftLink | None = None
        self.usage = SpeculationUsage()
        self.fixed_deadline: float | None = None

    @property
    def id(self) -> str:
        return self.request.request

    @property
    def pending(self) -> int:
        """Tokens without KV; 1 when only the root is."""
        return len(self.tokens) - len(self.kv)

    @property
    def output_len(self) -> int:
        return len(self.tokens) - self.prompt_len

    @property
    def speculates(self) -> bool:
        return self.request.speculation.mode != "off"

    def count(self, drafted: int = 0, verified: int = 0, accepted: int = 0, steps: int = 0) -> None:
        u = self.usage
        self.usage = SpeculationUsage(u.drafted + drafted, u.verified + verified, u.accepted + accepted, u.steps + steps)

    def accept(self, tokens: list[int]) -> GenerateReply:
        """Commits what a walk gave, cut at the first stop token and at max_tokens; says so to the gateway."""
        room = self.request.max_tokens - self.output_len
        tokens = tokens[:room]
        stop = next((i for i, token in enumerate(tokens) if token in self.request.stop_tokens), None)
        finish = ""
        if stop is not None:
            tokens, finish = tokens[: stop + 1], "stop"
        elif len(tokens) == room:
            finish = "length"
        first = self.output_len
        self.tokens += tokens
        if self.seen is not None:
            self.seen[tokens] = True
        return GenerateReply(self.id, self.request.attempt, first, tuple(tokens), finish, "", self.usage)
