"""One request inside a simulated verifier, and its link to a drafter: the times and counts of `verifier/sequence.py`."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from benchmarks.simulator.acceptance import Text
from benchmarks.simulator.draft_tree import DraftTree
from benchmarks.simulator.wire import Grow
from drafthouse.policy.start_rule import Announcement
from verifier.sequence import FIRST_REPLY_S, FIRST_REPLY_TOKENS, REPLY_RATE

if TYPE_CHECKING:
    from benchmarks.simulator.drafter import SimDrafter


@dataclass(slots=True)
class Request:
    """As its client sees it; seconds of simulated time."""

    text: Text
    arrival_s: float
    first_token_s: float = 0.0
    finished_s: float | None = None
    steps: int = 0


@dataclass(slots=True, eq=False)
class Link:
    """The verifier's copy: nodes `alive` of the first `known` ones that lie below the root at output position `root`."""

    drafter: "SimDrafter"
    tree: DraftTree
    root: int
    committed_at: float
    known: int = 0
    alive: list[int] = field(default_factory=list)
    snapshot: bool = False
    exhausted: bool = False
    announcement: Announcement | None = None
    reply_s: float = FIRST_REPLY_S
    reply_tokens: dict[bool, float] = field(default_factory=lambda: dict(FIRST_REPLY_TOKENS))

    def confidences(self) -> list[float]:
        return self.tree.confidences(self.alive, self.root)

    def commit(self, root: int, now: float) -> None:
        """Re-roots the copy and expects the drafter's answer when it usually comes."""
        self.alive = self.tree.below(self.alive, root)
        self.root, self.snapshot, self.exhausted, self.committed_at = root, False, False, now
        self.announcement = Announcement(now, now + self.reply_s, self.reply_tokens[len(self.alive) > 0])

    def graft(self, message: Grow, now: float) -> int:
        """Takes a Grow in; returns how many nodes are new here. Nodes appended to a snapshot that is gone come with the next one."""
        late = message.root < self.root
        if late and (self.snapshot or not message.first):
            return 0
        own = sum(self.confidences()) if message.first and not self.snapshot else 0.0
        new = self.tree.below(list(range(self.known, message.known)), self.root)
        self.alive += new
        self.known = max(self.known, message.known)
        if late:
            return len(new)
        if message.first and not self.snapshot:
            self._observe_reply(own, message.expected_tokens, now)
            self.snapshot = True
        self.exhausted = message.eta_s == 0
        self.announcement = Announcement(now, now + message.eta_s, message.expected_tokens) if message.eta_s else None
        return len(new)

    def _observe_reply(self, own: float, expected_tokens: float, now: float) -> None:
        brought = sum(self.confidences())
        gain = max(0.0, brought - own) if own else brought + expected_tokens
        self.reply_s += REPLY_RATE * (now - self.committed_at - self.reply_s)
        self.reply_tokens[own > 0] += REPLY_RATE * (gain - self.reply_tokens[own > 0])


@dataclass(slots=True, eq=False)
class Sequence:
    """`cached` tokens have KV, `output` are committed."""

    request: Request
    cached: int = 0
    output: int = 0
    link: Link | None = None
    retry_at: float = 0.0
    fixed_deadline: float | None = None

    @property
    def pending(self) -> int:
        return self.request.text.prompt_tokens + self.output - self.cached

    @property
    def left(self) -> int:
        return self.request.text.output_tokens - self.output
