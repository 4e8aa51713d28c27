"""A verifier and two drafters whose messages lie in explicit queues, for any interleaving a test wants.

Promises: the engines are the real ones on scripted models, and messages go through protobuf. A
stream keeps its order and loses its tail when it breaks; what is left of it may still arrive much
later, on either side: at the drafter that slept, or from it. What must hold at every message is
asserted here; what must hold at every moment is `check`.
"""

from collections import Counter, deque
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from drafter.engine import UNKNOWN, Outgoing
from drafter.session import Session
from drafthouse.config.serving import DrafterConfig, TreeConfig, VerifierConfig
from drafthouse.engine.loader import LoadedModel
from drafthouse.policy.latency import Curve
from drafthouse.stages.build import MODEL, SOURCE_OF, placed
from drafthouse.token_tree import TokenTree
from drafthouse.wire.generation_messages import GenerateRequest
from drafthouse.wire.session_messages import (
    Dropped,
    Grow,
    Open,
    ToDrafterMessage,
    ToVerifierMessage,
    from_drafter_proto,
    from_verifier_proto,
    to_drafter_proto,
    to_verifier_proto,
)
from protos import dataplane_pb2 as pb
from tests.engine.pairs import STEEP
from tests.engine.scripted import VOCAB_SIZE, Path, ScriptedRunner, draft_logits, draftable, recent_logits, stored, target_logits, truth
from tests.engine.watched_drafter import WatchedDrafter
from verifier.draft_session import DraftSession
from verifier.engine import VerifierEngine
from verifier.sequence import Sequence
from verifier.step import Wait
from verifier.step_loop import run_step

TREE = TreeConfig(max_nodes=10, max_depth=4, width=2)
KV_SLOTS = 72
"""Too few for three long requests in the verifier and for two sessions of them in a drafter."""
DRAFTERS = ("x", "y")
LIMITS = {"max_sessions": 2, "prefill_tokens": 16}
MODEL_ALONE = DrafterConfig.model_validate({"stages": [{"kind": "model"}], **LIMITS})
MISSED = "commit at"
"""How a drafter's reason begins when it missed or doubled a commit."""


@dataclass(eq=False)
class Stream:
    """What is under way between the verifier and one drafter; `broken` once the verifier has lost it."""

    peer: str
    drafter: str
    up: deque[pb.DrafterMessage] = field(default_factory=deque)
    down: deque[pb.VerifierMessage] = field(default_factory=deque)
    broken: bool = False


class Interleaved:
    def __init__(self, per_token_ms: float, config: DrafterConfig = MODEL_ALONE, tree: TreeConfig = TREE):
        """A dear token makes selection leave nodes out, and the price stops growth, but for what is grown ahead."""
        self.now = 0.0
        self.logits = draft_logits if config.window is None else recent_logits
        curve, limits = Curve("test", "", 5.0, per_token_ms, 0.0), VerifierConfig(max_sequences=3, step_tokens=16)
        target = ScriptedRunner(target_logits, KV_SLOTS, self.tick).as_loaded()
        target.runner.cache.share_prefixes()
        self.verifier = VerifierEngine(target, curve, limits, tree, lambda: self.now, placed(config.stages, "verifier", None, VOCAB_SIZE))
        self.drafters = {name: WatchedDrafter(self.draft(), STEEP, config, tree, lambda: self.now) for name in DRAFTERS}
        for drafter in self.drafters.values():
            drafter.cache.share_prefixes()
        self.streams: list[Stream] = []
        self.live: dict[str, Stream] = {}
        self.requests: dict[str, GenerateRequest] = {}  # the latest attempt of each id
        self.outputs: dict[str, list[int]] = {}
        self.epochs: Counter[str] = Counter()
        self.reached: Counter[str] = Counter()  # shows that the interesting states were reached at all
        self.peers = self.damaged = 0

    def draft(self) -> LoadedModel:
        return ScriptedRunner(self.logits, KV_SLOTS, self.tick).as_loaded()

    def tick(self) -> None:
        self.now += 0.005

    def submit(self, request: GenerateRequest) -> None:
        self.requests[request.request_id] = request
        self.outputs[request.request_id] = list(request.delivered)
        self.verifier.submit(request)

    def step(self, meanwhile: Callable[[], None] = lambda: None) -> float | None:
        """One step of the verifier, if it is willing; otherwise until when it waits. `meanwhile` is what happens during its run."""
        self.flush()
        outcome = run_step(self.verifier, self.flush, meanwhile)
        for reply in outcome if isinstance(outcome, list) else ():
            request, output = self.requests[reply.request_id], self.outputs[reply.request_id]
            assert (reply.attempt, reply.first_token_index) == (request.attempt, len(output))
            output += reply.tokens
            assert (reply.finish_reason == "length") == (len(output) == request.max_tokens)
        self.flush()
        return outcome.until if isinstance(outcome, Wait) else None

    def flush(self) -> None:
        outbox = self.verifier.draft_sessions.take_outbox()
        opens = [m for messages in outbox.values() for m in messages if isinstance(m, Open)]
        for message in sorted(opens, key=lambda m: m.epoch):
            assert message.epoch > self.epochs[message.session_id], "epochs rise, also when an id is used again"
            self.epochs[message.session_id] = message.epoch
        for name, messages in outbox.items():
            self.live[name].up += map(to_drafter_proto, messages)

    def connect(self, name: str) -> None:
        self.peers += 1
        self.live[name] = Stream(f"peer-{self.peers}", name)
        self.streams.append(self.live[name])
        self.verifier.draft_sessions.add_drafter(name, self.drafters[name].wish)

    def lose(self, name: str, up: int, down: int) -> None:
        """The stream breaks: of what was under way only the first few messages can still arrive."""
        self.flush()
        stream = self.live.pop(name)
        stream.up, stream.down, stream.broken = deque(list(stream.up)[:up]), deque(list(stream.down)[:down]), True
        self.verifier.lose_drafter(name)

    def forget(self, stream: Stream) -> None:
        """The drafter sees that its stream is gone."""
        self.drafters[stream.drafter].forget_peer(stream.peer)
        self.streams.remove(stream)

    def deliver_up(self, stream: Stream, count: int) -> None:
        for _ in range(min(count, len(stream.up))):
            self.tell(stream, from_drafter_proto(stream.up.popleft()))

    def tell(self, stream: Stream, message: ToDrafterMessage) -> None:
        self.route(self.drafters[stream.drafter].handle(stream.peer, message))

    def deliver_down(self, stream: Stream, count: int) -> None:
        for _ in range(min(count, len(stream.down))):
            self.receive(stream, from_verifier_proto(stream.down.popleft()))

    def route(self, out: list[Outgoing]) -> None:
        for peer, message in out:
            assert not (isinstance(message, Dropped) and message.reason.startswith(MISSED)), message
            self.reached[type(message).__name__] += 1
            for stream in self.streams:
                if stream.peer == peer:
                    stream.down.append(to_verifier_proto(message))

    def receive(self, stream: Stream, message: ToVerifierMessage) -> None:
        sequence = self.verifier.sequences.get(message.session_id)
        link = sequence.draft_session if sequence is not None else None
        stale = link is None or (link.drafter, link.epoch) != (stream.drafter, message.epoch)
        assert stale or not stream.broken, "what a broken stream still carries is of an older epoch"
        assert stale or not (isinstance(message, Dropped) and message.reason == UNKNOWN), "no Open is lost while its stream holds"
        if isinstance(message, Grow) and link is not None and not stale:
            self.reached["late"] += message.base_len < link.base_len
            self.reached["appended"] += message.first_node > 0
        before = self.everything()
        self.verifier.receive(stream.drafter, message)
        if stale:
            self.reached["stale"] += 1
            assert self.everything() == before, "a stale message changed something"

    def everything(self) -> str:
        """All of the verifier's state that a message could change, but for the counter of stale ones."""
        d = self.verifier.draft_sessions
        sequences = [(s.id, s.tokens, s.draft_session, s.usage) for s in self.verifier.sequences.values()]
        return repr((sequences, d.drafters, d.records, d._retry_at, d._outbox, d.events.malformed, self.verifier.pricing.price))

    def links(self) -> Iterator[tuple[Sequence, DraftSession]]:
        yield from ((s, s.draft_session) for s in self.verifier.sequences.values() if s.draft_session is not None)

    def check(self) -> None:
        for name, output in self.outputs.items():
            r = self.requests[name]
            assert tuple(output) == truth(r.prompt, r.sampling, r.seed, r.max_tokens)[: len(output)]
        draft_sessions = self.verifier.draft_sessions
        assert draft_sessions.events.malformed == self.damaged, "an undamaged message was taken for a malformed one"
        linked = Counter(link.drafter for _, link in self.links())
        assert {d: record.sessions for d, record in draft_sessions.records.items() if record.sessions} == dict(linked)
        for s in self.verifier.sequences.values():
            assert stored(s.kv) == (s.tokens[: len(s.kv)], list(range(len(s.kv))))
            self.reached["cached"] += s.usage.cached_tokens
            if s.local is not None:
                self._nodes_are_of_this_base(s, s.local.growing.tree)
        for s, link in self.links():
            assert link.base_len == len(s.tokens)
            self._nodes_are_of_this_base(s, link.tree)
            self._copy_equals_the_drafters(s, link)
        self._drafters_are_not_stale()

    def _nodes_are_of_this_base(self, s: Sequence, tree: TokenTree) -> None:
        """Whatever overtook what: a node holds what its source would draft just there."""
        for node, (token, parent, source) in enumerate(zip(tree.tokens, tree.parents, tree.sources, strict=True)):
            self.reached[f"source {source}"] += 1
            allowed = self._draftable(s, (*s.tokens, *tree.path(parent)), source)
            assert token in allowed, f"node {node} was drafted below another path, by {source}"

    def _draftable(self, s: Sequence, context: Path, source: int) -> Container[int]:
        """The tokens that a source may put below `context`, whose committed part is all of `s.tokens`."""
        if source == MODEL:
            return draftable(context, s.request.sampling, s.request.seed, TREE.width, self.logits)
        if source in (SOURCE_OF["lookup"], SOURCE_OF["suffix"]):
            return {after for before, after in pairwise(s.tokens) if before == context[-1]}
        return {(context[-1] + 1) % VOCAB_SIZE}  # own_stages.Counting

    def _copy_equals_the_drafters(self, s: Sequence, link: DraftSession) -> None:
        stream = self.live[link.drafter]
        session = self.drafters[link.drafter].sessions.get((stream.peer, s.id))
        if not link.snapshot or session is None or session.epoch != link.epoch:
            return
        assert len(session.tokens) == link.base_len
        theirs = session.tree.subtree(range(len(link.tree)))
        assert (link.tree.tokens, link.tree.parents) == (theirs.tokens, theirs.parents)
        if any(isinstance(m, Grow) and m.session_id == s.id for m in map(from_verifier_proto, stream.down)):
            return
        assert len(link.tree) == len(session.tree), "nodes were lost on the way"
        assert link.tree.sources == theirs.sources
        assert link.tree.edges == pytest.approx(theirs.edges), "edges are float32 on the wire"
        self.reached["equal"] += len(link.tree) > 0

    def _drafters_are_not_stale(self) -> None:
        for drafter in self.drafters.values():
            for session in drafter.sessions.values():
                self.check_states(session)
                root, depths = len(session.tokens) - 1, session.tree.depths()
                seen = [i for i in range(session.cached) if not session.sinks <= i < session.sinks + session.skipped]
                tokens = [session.tokens[i] for i in seen] + [session.tree.tokens[i] for i in session.expanded]
                assert stored(session.kv) == (tokens, [*seen, *(root + depths[i] for i in session.expanded)])
                ranked = any(MODEL in by_source for by_source in session.growing.rankings.values())
                grows = session.frontier.now or session.frontier.ahead
                assert session.cached == len(session.tokens) or not (grows if session.states is not None else ranked)
                self.reached["skipped"] += session.skipped
            assert drafter.admission.reserved_slots == sum(
                drafter.admission.needed(len(session.tokens)) for session in drafter.sessions.values()
            )

    def check_states(self, session: Session) -> None:
        """What tokens were run with, where the draft reads states."""

    def finish(self) -> None:
        """Runs every request to its end on what is connected, then everything must be free."""
        for _ in range(2000):
            for stream in list(self.live.values()):
                self.deliver_up(stream, 99)
                self.route(self.drafters[stream.drafter].run_pass())
                self.deliver_down(stream, 99)
            self.check()
            until = self.step()
            self.now = max(self.now, until or 0.0)
            if not self.verifier.sequences:
                break
        assert not self.verifier.sequences, "a request never ended"
        for stream in list(self.streams):
            if not stream.broken:
                self.deliver_up(stream, 99)
                assert not any(peer == stream.peer for peer, _ in self.drafters[stream.drafter].sessions), "a session was not closed"
            self.forget(stream)
        for cache in (self.verifier.runner.cache, *(drafter.cache for drafter in self.drafters.values())):
            allocator = cache.allocator
            allocator.check_integrity()
            assert allocator.free_count == allocator.count, "KV slots leaked"
