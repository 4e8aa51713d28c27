"""The verifier's sessions on drafters: `verifier/draft_session.py` and `draft_sessions.py` on the simulator's trees.

Promises: all that a session learns and expects is the original's; only nodes are kept otherwise.
"""

from collections import Counter
from collections.abc import Iterable
from collections.abc import Sequence as TypingSequence
from dataclasses import dataclass
from typing import Any, cast

from drafthouse.config.serving import TreeConfig, VerifierConfig
from drafthouse.engine.loader import LoadedModel
from drafthouse.policy.draft_seats import Candidate, DraftSeats
from drafthouse.wire.session_messages import Grow, Open
from drafthouse.wire.totals import VerifyTotals
from simulator.draft_tree import DraftTree
from simulator.request import SimSequence
from simulator.wire import Opening
from verifier.draft_session import DraftSession
from verifier.draft_sessions import DraftSessions
from verifier.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Drafted:
    """What a Grow carries in place of nodes: how many of the session were drafted so far, and how many of those are new to the peer."""

    known: int
    new: int

    def __len__(self) -> int:
        return self.new


class TreeCopy:
    """The nodes of a session's tree that have arrived here and lie below the root at output position `root`."""

    __slots__ = ("alive", "known", "root", "tree")

    def __init__(self, tree: DraftTree, root: int, alive: list[int], known: int):
        self.tree, self.root, self.alive, self.known = tree, root, alive, known

    def __len__(self) -> int:
        return len(self.alive)

    def depths_and_confidences(self) -> tuple[list[int], list[float]]:
        positions, root = self.tree.positions, self.root
        return [positions[i] - root for i in self.alive], self.tree.confidences(self.alive, self.root)

    def reroot(self, tokens: TypingSequence[int]) -> "TreeCopy":
        root = self.root + len(tokens)
        return TreeCopy(self.tree, root, self.tree.below(self.alive, root), self.known)

    def take(self, known: int) -> None:
        """The first `known` nodes of the session have arrived."""
        self.alive += self.tree.below(list(range(self.known, known)), self.root)
        self.known = max(self.known, known)


def _candidate(s: Sequence) -> Candidate[str]:
    drafter = s.draft_session.drafter if s.draft_session is not None else None
    return Candidate(s.id, s.worth, len(s.tokens), s.max_draft_depth, drafter)


class SimDraftSession(DraftSession):
    def take_nodes(self, message: Grow, committed: list[int], vocab_size: int, limit: int) -> None:
        """As the original; nodes appended to a snapshot that is gone come with the next one."""
        nodes, copy = cast(Drafted, message.nodes), cast(TreeCopy, self.tree)
        late = message.base_len < self.base_len
        if not late or (message.first_node == 0 and not self.snapshot):
            copy.take(nodes.known)
        self.snapshot = self.snapshot or (message.first_node == 0 and not late)


class SimDraftSessions(DraftSessions):
    """`seats` None: sessions go where the base class has them go."""

    seats: DraftSeats[str] | None = None

    def __init__(self, config: VerifierConfig, tree: TreeConfig, target: LoadedModel, totals: VerifyTotals):
        super().__init__(config, tree, target, totals)
        self._known: set[str] = set()
        self._granted: dict[str, str] = {}

    def rearrange(self, sequences: Iterable[Sequence]) -> None:
        """Once a step: who gives a session up, and who may open one where; the sequences are those that could have one."""
        if self.seats is None:
            return
        by_id = {s.id: s for s in sequences if s.max_draft_depth > 0 and (s.parked_rate is None or s.draft_session is not None)}
        changes = self.seats.arrange([_candidate(s) for s in by_id.values()], self.drafters)
        for key in changes.end:
            self.park(by_id[key])
        self._known, self._granted = set(by_id), changes.open

    def drafter_for(self, sequence: Sequence, usable: list[str]) -> str | None:
        """As it was granted; a sequence that has just come takes a seat that is free."""
        if self.seats is None:
            return super().drafter_for(sequence, usable)
        if sequence.id in self._known:
            granted = self._granted.get(sequence.id)
            return granted if granted in usable else None
        held = Counter({d: self.records[d].sessions for d in usable})
        return self.seats.seat(_candidate(sequence), usable, held)

    def node_price(self, sequence: Sequence) -> float:
        """By the controller's price of the drafter's time."""
        if self.seats is None or sequence.draft_session is None:
            return 0.0
        return self.seats.node_price(sequence.draft_session.drafter)

    def session(self, sequence: Sequence, drafter: str, epoch: int, price: float, probe: bool) -> DraftSession:
        """With a tree of the simulator's."""
        copy = TreeCopy(DraftTree(cast(SimSequence, sequence).sim.text), sequence.output_len - 1, [], 0)
        return SimDraftSession(drafter, epoch, len(sequence.tokens), cast(Any, copy), self.records[drafter], price, probe)

    def opening(self, sequence: Sequence, session: DraftSession, price: float) -> Open:
        """With the tree, for the drafter's end."""
        message = super().opening(sequence, session, price)
        return cast(Any, Opening(message, cast(TreeCopy, session.tree).tree, sequence.prompt_len))
