"""A drafter's engine that knows which of its nodes were grown ahead, and which of those a commit left.

Promises: drafts as `DrafterEngine` does; nodes are told apart by the whole path of tokens that they stand for.
"""

from collections import defaultdict

from drafter.engine import DrafterEngine, Outgoing
from drafter.session import Session
from drafthouse.wire.session_messages import Commit, ToDrafterMessage

Words = set[tuple[int, ...]]


def words(session: Session) -> Words:
    """Of each node: the committed tokens and its own path."""
    tree = session.tree
    return {(*session.tokens, *tree.path(node)) for node in range(len(tree))}


class WatchedDrafter(DrafterEngine):
    """`ahead_passes` had nothing to grow that was worth its price; `survived` counts, over all commits, the nodes that they
    brought and that the commit left in the tree."""

    ahead_passes = survived = 0

    def handle(self, peer: str, message: ToDrafterMessage) -> list[Outgoing]:
        out = super().handle(peer, message)
        session = self.sessions.get((peer, message.session_id))
        if isinstance(message, Commit) and session is not None and self._ahead[session]:
            self._ahead[session] &= words(session)
            self.survived += len(self._ahead[session])
        return out

    def run_pass(self) -> list[Outgoing]:
        sessions = list(self.sessions.values())
        ahead = not any(s.missing or s.frontier.now for s in sessions) and any(s.frontier.ahead for s in sessions)
        before = {session: words(session) for session in sessions} if ahead else {}
        out = super().run_pass()
        self.ahead_passes += ahead
        for session, known in before.items():
            self._ahead[session] |= words(session) - known
        return out

    @property
    def _ahead(self) -> defaultdict[Session, Words]:
        return self.__dict__.setdefault("_nodes_ahead", defaultdict(set))
