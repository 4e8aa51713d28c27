"""The verifier's sessions on drafters: `verifier/draft_session.py` and `draft_sessions.py` on the simulator's trees.

Promises: all that a session learns and expects is the original's; only nodes are kept otherwise.
"""

from collections.abc import Sequence as TypingSequence
from dataclasses import dataclass
from typing import Any, cast

from drafthouse.wire.session_messages import Grow, Open
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


class SimDraftSession(DraftSession):
    def take_nodes(self, message: Grow, committed: list[int], vocab_size: int, limit: int) -> None:
        """As the original; nodes appended to a snapshot that is gone come with the next one."""
        nodes, copy = cast(Drafted, message.nodes), cast(TreeCopy, self.tree)
        late = message.base_len < self.base_len
        if not late or (message.first_node == 0 and not self.snapshot):
            copy.take(nodes.known)
        self.snapshot = self.snapshot or (message.first_node == 0 and not late)


class SimDraftSessions(DraftSessions):
    def session(self, sequence: Sequence, drafter: str, epoch: int, price: float, probe: bool) -> DraftSession:
        """With a tree of the simulator's."""
        copy = TreeCopy(DraftTree(cast(SimSequence, sequence).sim.text), sequence.output_len - 1, [], 0)
        return SimDraftSession(drafter, epoch, len(sequence.tokens), cast(Any, copy), self.records[drafter], price, probe)

    def opening(self, sequence: Sequence, session: DraftSession, price: float) -> Open:
        """With the tree, for the drafter's end."""
        message = super().opening(sequence, session, price)
        return cast(Any, Opening(message, cast(TreeCopy, session.tree).tree, sequence.prompt_len))
