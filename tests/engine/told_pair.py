"""The real verifier engine in virtual time, between a target that only takes time and a drafter that does as it is told.

Promises: what `simulator.virtual_pair` does. Acceptance is synthetic, at a set rate; what the drafter claims of it may be something else.
"""

import random
from collections.abc import Callable, Iterable

import torch

from drafter.engine import Outgoing
from drafthouse.config.serving import SyntheticAcceptance, TreeConfig, VerifierConfig
from drafthouse.engine.kv_cache import KvCache
from drafthouse.engine.loader import LoadedModel
from drafthouse.engine.model_runner import RunResult
from drafthouse.engine.segment import Segment
from drafthouse.policy.latency import LatencyModel
from drafthouse.token_tree import ROOT, TokenTree
from drafthouse.wire.generation_messages import GenerateRequest
from drafthouse.wire.session_messages import Close, Commit, Grow, Open, ToDrafterMessage
from simulator.virtual_pair import VirtualPair
from simulator.virtual_time import Device, World
from verifier.engine import VerifierEngine

VOCAB_SIZE = 512
PASS_NODES = 16
PASS_S = 0.0025
SIBLING_EDGE = 0.02
Claim = Callable[[str], float]
"""By session: the edge of first children."""


class TimedRunner:
    """Stands where `ModelRunner` does; a run takes its time on the curve."""

    def __init__(self, world: World, latency: LatencyModel, slots: int):
        self.world, self.latency = world, latency
        self.cache = KvCache(1, 1, 1, slots, torch.int64, torch.device("cpu"))
        self.vocab_size, self.attention_calls = VOCAB_SIZE, 1

    def run(self, segments: list[Segment]) -> RunResult:
        seconds = self.latency.seconds(sum(map(len, segments)), 0)
        self.world.spend(seconds)
        return RunResult(torch.zeros(sum(len(s.outputs) for s in segments), VOCAB_SIZE), seconds)


class _Session:
    def __init__(self, opened: Open):
        self.opened, self.min_confidence, self.base_len = opened, opened.min_confidence, len(opened.tokens)
        self.worth = opened.worth
        self.tree, self.expanded, self.sent = TokenTree(), set[int](), 0

    def commit(self, message: Commit) -> None:
        root, survivors = self.tree.find(message.tokens), self.tree.survivors(message.tokens)
        index = {root: ROOT} | {old: new for new, old in enumerate(survivors)} if root is not None else {}
        self.expanded = {index[node] for node in self.expanded if node in index}
        self.tree, self.sent = self.tree.reroot(message.tokens), 0
        self.base_len, self.min_confidence = self.base_len + len(message.tokens), message.min_confidence
        self.worth = message.worth

    def frontier(self, claim: float) -> list[tuple[float, int]]:
        if len(self.tree) >= self.opened.max_nodes:
            return []
        nodes = [(1.0, ROOT, 0), *zip(self.tree.path_confidences(), range(len(self.tree)), self.tree.depths(), strict=True)]
        floor = max(self.min_confidence, 0.005)
        return [(c, n) for c, n, d in nodes if n not in self.expanded and d < self.opened.max_depth and c * claim > floor]


class ToldDrafter:
    """Stands where `DrafterEngine` does; a pass takes PASS_S."""

    wish = None

    def __init__(self, device: Device, claim: Claim):
        self.device, self.claim = device, claim
        self.sessions: dict[str, _Session] = {}
        self.tokens = random.Random(0)

    def handle(self, peer: str, message: ToDrafterMessage) -> list[Outgoing]:
        session = self.sessions.get(message.session_id)
        if isinstance(message, Open):
            self.sessions[message.session_id] = session = _Session(message)
        elif session is None or session.opened.epoch != message.epoch:
            return []
        elif isinstance(message, Close):
            del self.sessions[message.session_id]
            return []
        else:
            assert isinstance(message, Commit)
            session.commit(message)
        return [(peer, self._grow(session))]

    def has_work(self) -> bool:
        return any(session.frontier(self._claim(session)) for session in self.sessions.values())

    def run_pass(self) -> list[Outgoing]:
        frontiers = ((c, n, s) for s in self.sessions.values() for c, n in s.frontier(self._claim(s)))
        works = sorted(frontiers, key=lambda work: -work[0] * work[2].worth)[:PASS_NODES]
        self.device.spend(PASS_S)
        for _, node, session in works:
            self._expand(node, session)
        return [("verifier", self._grow(session)) for session in {id(s): s for _, _, s in works}.values()]

    def _claim(self, session: _Session) -> float:
        return self.claim(session.opened.session_id)

    def _expand(self, node: int, session: _Session) -> None:
        session.expanded.add(node)
        confidence = 1.0 if node == ROOT else session.tree.path_confidences()[node]
        for i, token in enumerate(self.tokens.sample(range(1, VOCAB_SIZE), session.opened.width or 3)):
            edge = SIBLING_EDGE if i else self._claim(session)
            if confidence * edge >= max(session.min_confidence, 0.005) and len(session.tree) < session.opened.max_nodes:
                session.tree.add(token, node, edge, 0)

    def _grow(self, session: _Session) -> Grow:
        best = sorted((c for c, _ in session.frontier(self._claim(session))), reverse=True)[:PASS_NODES]
        t, first = session.tree, session.sent
        new = slice(first, None)
        nodes = TokenTree(t.tokens[new], t.parents[new], t.edges[new], t.sources[new])
        next_pass_eta_us, expected = (int(1e6 * PASS_S), self._claim(session) * sum(best)) if best else (0, 0.0)
        session.sent = len(t)
        return Grow(session.opened.session_id, session.opened.epoch, session.base_len, first, nodes, next_pass_eta_us, expected)


class ToldPair(VirtualPair):
    def __init__(self, latency: LatencyModel, rate: float, claim: Claim):
        world = World()
        device = Device(world)
        model = LoadedModel(TimedRunner(world, latency, slots=64 * 4096), 1 << 20, "timed")  # type: ignore[arg-type]
        config = VerifierConfig(max_sequences=64, synthetic_acceptance=SyntheticAcceptance(rate=rate))
        super().__init__(VerifierEngine(model, latency, config, TreeConfig(), world.clock), ToldDrafter(device, claim), device)

    def seconds(self, requests: Iterable[GenerateRequest]) -> float:
        """Virtual seconds until all are done."""
        started = self.world.now
        self.generate(requests)
        return self.world.now - started
