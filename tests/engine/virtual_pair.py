"""The real verifier engine in virtual time, between a target that only takes time and drafters that do as they are told.

Promises: deterministic, and overlapped as on two devices: while a step runs, passes end and messages
travel. Acceptance is synthetic, at a set rate; what a drafter claims of it may be something else.
"""

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from drafthouse.config.serving import SyntheticAcceptance, TreeConfig, VerifierConfig
from drafthouse.engine.kv_cache import KvCache
from drafthouse.engine.loader import LoadedModel
from drafthouse.engine.model_runner import RunResult
from drafthouse.engine.segment import Segment
from drafthouse.policy.latency import LatencyModel
from drafthouse.token_tree import ROOT, TokenTree
from drafthouse.wire.generation_messages import GenerateRequest
from drafthouse.wire.session_messages import Close, Commit, Grow, Open, ToDrafterMessage, ToVerifierMessage
from verifier.engine import VerifierEngine

VOCAB_SIZE = 512
PASS_NODES = 16
SIBLING_EDGE = 0.02
NAME = "drafter"


@dataclass
class World:
    """Virtual seconds, and what happens when."""

    now: float = 0.0
    _events: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _count: int = 0

    def after(self, seconds: float, event: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (self.now + seconds, self._count, event))

    def advance(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            self.now, _, event = heapq.heappop(self._events)
            event()
        self.now = until

    def next_event(self) -> float | None:
        return self._events[0][0] if self._events else None


class TimedRunner:
    """Stands where `ModelRunner` does; a run takes its time on the curve."""

    def __init__(self, world: World, latency: LatencyModel, slots: int):
        self.world, self.latency = world, latency
        self.cache = KvCache(1, 1, 1, slots, torch.int64, torch.device("cpu"))
        self.vocab_size, self.attention_calls = VOCAB_SIZE, 1

    def run(self, segments: list[Segment]) -> RunResult:
        seconds = self.latency.seconds(sum(map(len, segments)), 0)
        self.world.advance(self.world.now + seconds)
        return RunResult(torch.zeros(sum(len(s.outputs) for s in segments), VOCAB_SIZE), seconds)


class _Session:
    def __init__(self, opened: Open):
        self.opened, self.min_confidence, self.base_len = opened, opened.min_confidence, len(opened.tokens)
        self.tree, self.expanded, self.sent = TokenTree(), set[int](), 0

    def commit(self, message: Commit) -> None:
        root, survivors = self.tree.find(message.tokens), self.tree.survivors(message.tokens)
        index = {root: ROOT} | {old: new for new, old in enumerate(survivors)} if root is not None else {}
        self.expanded = {index[node] for node in self.expanded if node in index}
        self.tree, self.sent = self.tree.reroot(message.tokens), 0
        self.base_len, self.min_confidence = self.base_len + len(message.tokens), message.min_confidence

    def frontier(self, claim: float) -> list[tuple[float, int]]:
        if len(self.tree) >= self.opened.max_nodes:
            return []
        nodes = [(1.0, ROOT, 0), *zip(self.tree.path_confidences(), range(len(self.tree)), self.tree.depths(), strict=True)]
        floor = max(self.min_confidence, 0.005)
        return [(c, n) for c, n, d in nodes if n not in self.expanded and d < self.opened.max_depth and c * claim > floor]


class ToldDrafter:
    """`claim(session)` is the edge of first children; passes take `pass_s`, messages `trip_s` each way."""

    def __init__(self, world: World, verifier: VerifierEngine, claim: Callable[[str], float], pass_s: float, trip_s: float):
        self.world, self.verifier, self.claim, self.pass_s, self.trip_s = world, verifier, claim, pass_s, trip_s
        self.sessions: dict[str, _Session] = {}
        self.inbox: list[ToDrafterMessage] = []
        self.busy, self.arrived = False, list[tuple[float, ToVerifierMessage]]()
        self.tokens = random.Random(0)

    def hear(self, messages: list[ToDrafterMessage]) -> None:
        self.inbox += messages
        if not self.busy:
            self._handle()

    def _handle(self) -> None:
        for message in self.inbox:
            session = self.sessions.get(message.session_id)
            if isinstance(message, Open):
                self.sessions[message.session_id] = session = _Session(message)
            elif session is None or session.opened.epoch != message.epoch:
                continue
            elif isinstance(message, Close):
                del self.sessions[message.session_id]
                continue
            else:
                session.commit(message)
            self._say(session)
        self.inbox = []
        self._start()

    def _start(self) -> None:
        works = sorted(((c, n, s) for s in self.sessions.values() for c, n in s.frontier(self._claim(s))), key=lambda w: -w[0])[:PASS_NODES]
        if works:
            self.busy = True
            self.world.after(self.pass_s, lambda: self._end([(n, s) for _, n, s in works]))

    def _claim(self, session: _Session) -> float:
        return self.claim(session.opened.session_id)

    def _end(self, works: Sequence[tuple[int, _Session]]) -> None:
        self.busy = False
        for node, session in works:
            session.expanded.add(node)
            confidence = 1.0 if node == ROOT else session.tree.path_confidences()[node]
            width = session.opened.width or 3
            for i, token in enumerate(self.tokens.sample(range(1, VOCAB_SIZE), width)):
                edge = SIBLING_EDGE if i else self._claim(session)
                if confidence * edge >= max(session.min_confidence, 0.005) and len(session.tree) < session.opened.max_nodes:
                    session.tree.add(token, node, edge, 0)
        for session in {id(s): s for _, s in works}.values():
            self._say(session)
        self._handle()

    def _say(self, session: _Session) -> None:
        best = sorted((c for c, _ in session.frontier(self._claim(session))), reverse=True)[:PASS_NODES]
        t, new = session.tree, slice(session.sent, None)
        nodes = TokenTree(t.tokens[new], t.parents[new], t.edges[new], t.sources[new])
        next_pass_eta_us, expected = (int(1e6 * self.pass_s), self._claim(session) * sum(best)) if best else (0, 0.0)
        message = Grow(session.opened.session_id, session.opened.epoch, session.base_len, session.sent, nodes, next_pass_eta_us, expected)
        session.sent = len(t)
        self.world.after(self.trip_s, lambda: self.arrived.append((self.world.now, message)))


class VirtualPair:
    def __init__(self, latency: LatencyModel, rate: float, claim: Callable[[str], float], pass_s: float = 0.0025, trip_s: float = 0.0003):
        self.world = World()
        runner = TimedRunner(self.world, latency, slots=64 * 4096)
        config = VerifierConfig(max_sequences=64, synthetic_acceptance=SyntheticAcceptance(rate=rate))
        model = LoadedModel(runner, 1 << 20, "timed")  # type: ignore[arg-type]
        self.engine = VerifierEngine(model, latency, config, TreeConfig(), lambda: self.world.now)
        self.drafter = ToldDrafter(self.world, self.engine, claim, pass_s, trip_s)
        self.engine.draft_sessions.set_drafters([NAME])

    def run(self, requests: Sequence[GenerateRequest]) -> float:
        """Virtual seconds until all are done."""
        for r in requests:
            self.engine.submit(r)
        while self.engine.sequences:
            self.turn()
        return self.world.now

    def turn(self) -> None:
        self._flush()
        self._arrivals()
        outcome = self.engine.step(self._arrivals)
        if outcome.wait_until is not None:
            event = self.world.next_event()
            self.world.advance(min(outcome.wait_until, event if event is not None else outcome.wait_until))

    def _flush(self) -> None:
        for messages in self.engine.draft_sessions.take_outbox().values():
            self.world.after(self.drafter.trip_s, lambda messages=messages: self.drafter.hear(messages))  # type: ignore[misc]

    def _arrivals(self) -> None:
        while self.drafter.arrived:
            arrived, message = self.drafter.arrived.pop(0)
            self.engine.receive(NAME, message, arrived)
