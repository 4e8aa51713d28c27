"""The verifier's session on a drafter: `verifier/draft_session.py` on the simulator's trees.

Promises: all that a session learns and expects is the original's; only nodes are kept otherwise.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from drafthouse.wire.session_messages import Grow
from simulator.draft_tree import DraftTree
from verifier.draft_session import DraftSession


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

    def path_confidences(self) -> list[float]:
        return self.tree.confidences(self.alive, self.root)

    def depths(self) -> list[int]:
        positions, root = self.tree.positions, self.root
        return [positions[i] - root for i in self.alive]

    def reroot(self, tokens: Sequence[int]) -> "TreeCopy":
        root = self.root + len(tokens)
        return TreeCopy(self.tree, root, self.tree.below(self.alive, root), self.known)

    def subtree(self, nodes: Sequence[int]) -> list[int]:
        """Which nodes of the session these are."""
        return [self.alive[i] for i in nodes]

    def take(self, known: int) -> None:
        """The first `known` nodes of the session have arrived."""
        self.alive += self.tree.below(list(range(self.known, known)), self.root)
        self.known = max(self.known, known)


class SimDraftSession(DraftSession):
    @classmethod
    def of(cls, link: DraftSession, price: float, tree: DraftTree, root: int) -> "SimDraftSession":
        """In the place of `link`, which was just opened."""
        own = cls(link.drafter, link.epoch, link.base_len, link._record, price, link.probe)
        own.tree = cast(Any, TreeCopy(tree, root, [], 0))
        return own

    def graft(self, message: Grow, committed: list[int], vocab_size: int, limit: int, now: float) -> int:
        """As the original; nodes appended to a snapshot that is gone come with the next one."""
        before, nodes, tree = len(self.tree), cast(Drafted, message.nodes), cast(TreeCopy, self.tree)
        if message.base_len < self.base_len:
            if message.first_node == 0 and not self.snapshot:
                tree.take(nodes.known)
                self._measure()
            return len(self.tree) - before
        net_before = self._net()
        tree.take(nodes.known)
        self.snapshot = self.snapshot or message.first_node == 0
        self.received, self.exhausted = len(self.tree), message.next_pass_eta_us == 0
        self._measure()
        self._learn(before > 0, len(nodes) > 0, self._net() - net_before, now)
        self._announce(message, now)
        return len(self.tree) - before
