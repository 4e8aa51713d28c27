"""`tests.engine.interleaved` with drafts that read the target's hidden states, which may get lost or be spoilt on the way.

Promises: what each token in a draft's KV was run with is known: a committed one with the target's state that chose it, unless that was
lost or lies before the session; a drafted one with the draft's own at its parent.
"""

from collections import defaultdict

from drafter.engine import Outgoing
from drafter.session import Session
from drafthouse.engine.loader import LoadedModel
from drafthouse.wire.session_messages import Commit, Dropped, Open, ToDrafterMessage
from tests.engine.interleaved import KV_SLOTS, Interleaved, Stream
from tests.engine.scripted import NO_STATE, ScriptedRunner, state_of, stored_states

TARGET_SALT, DRAFT_SALT = 1, 2
SPOILT = "commit.states"
"""How a drafter's reason begins when it could not read states."""


class InterleavedStates(Interleaved):
    """`lost`: by peer, session and epoch, the positions of tokens whose states did not arrive."""

    def __init__(self, *settings: object):
        super().__init__(*settings)  # type: ignore[arg-type]
        self.lost: defaultdict[tuple[str, str, int], set[int]] = defaultdict(set)
        self.spoilt = self.found_spoilt = 0

    def draft(self) -> LoadedModel:
        return ScriptedRunner(self.logits, KV_SLOTS, self.tick, DRAFT_SALT).as_loaded(reads_states=True)

    def lose_states(self, stream: Stream) -> None:
        """Of all commits that are under way."""
        for proto in stream.up:
            if proto.WhichOneof("kind") == "commit":
                commit = proto.commit
                self.lost[stream.peer, commit.session_id, commit.epoch].update(range(commit.base_len, commit.base_len + len(commit.tokens)))
                self.reached["lost states"] += len(commit.states) > 0
                commit.states = b""

    def spoil_states(self, stream: Stream) -> None:
        """Of the next commit that has any: they are of no whole row."""
        for proto in stream.up:
            if proto.WhichOneof("kind") == "commit" and proto.commit.states:
                proto.commit.states += b"\0\0"
                return

    def tell(self, stream: Stream, message: ToDrafterMessage) -> None:
        if isinstance(message, Open):
            self.lost[stream.peer, message.session_id, message.epoch].update(range(len(message.tokens)))
        if isinstance(message, Commit):
            self.reached["states"] += len(message.states) > 0
        super().tell(stream, message)

    def route(self, out: list[Outgoing]) -> None:
        self.reached["spoilt states"] += sum(isinstance(message, Dropped) and message.reason.startswith(SPOILT) for _, message in out)
        super().route(out)

    def check_states(self, session: Session) -> None:
        excused = self.lost[*session.key, session.epoch]
        seen = [i for i in range(session.cached) if not session.sinks <= i < session.sinks + session.skipped]
        found = stored_states(session.kv)
        for i, state in zip(seen, found, strict=False):
            told = state_of(tuple(session.tokens[:i]), TARGET_SALT)
            assert state == told or (state == NO_STATE and i in excused), f"token {i} was run with the state of another place"
            self.reached["told of a prompt"] += state == told and i < len(session.tokens) - 1 and i in excused
            self.reached["run alone"] += state == NO_STATE
        for node, state in zip(session.expanded, found[len(seen) :], strict=True):
            above = session.tree.path(node)[:-1]
            assert state == state_of((*session.tokens, *above), DRAFT_SALT), f"node {node} was run with the state of another node"
            self.reached["own states"] += 1
