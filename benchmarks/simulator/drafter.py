"""One drafter replica: sessions in, passes, trees out, as `drafter/engine.py` and `drafter/pass_loop.py` do it.

Promises: a pass is never begun while messages wait; one pass runs over the best frontier nodes of
all sessions that the growth policy finds worth their price; catch-ups come first.
"""

import random
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import simpy

from benchmarks.simulator.draft_tree import ROOT, DraftTree
from benchmarks.simulator.options import Options
from benchmarks.simulator.verifier import SimVerifier
from benchmarks.simulator.wire import Close, Commit, Grow, Open, Refused, ToDrafter, ToVerifier, after
from drafter.session import MIN_CONFIDENCE
from drafthouse.policy.edges import EXPECTED_CHILDREN
from drafthouse.policy.latency import ScaledCurve


class Session:
    """The drafter's side: what is cached of the committed tokens, the nodes below the root, and those worth a pass."""

    __slots__ = (
        "alive", "cached", "expanded", "frontier", "max_depth", "max_nodes", "price", "root", "sent", "tokens", "tree", "verifier", "width",
    )  # fmt: skip

    def __init__(self, opened: Open):
        self.tree, self.verifier = opened.tree, opened.verifier
        self.tokens, self.root, self.price = opened.tokens, opened.root, opened.price
        self.max_nodes, self.max_depth, self.width = opened.max_nodes, opened.max_depth, opened.width
        self.cached = self.sent = self.expanded = 0
        self.alive: list[int] = []
        self.frontier: list[tuple[float, int]] = []

    @property
    def missing(self) -> int:
        """Committed tokens without KV; nothing is drafted before they have it."""
        return self.tokens - self.cached

    @property
    def kv_tokens(self) -> int:
        return self.cached + self.expanded

    @property
    def floor(self) -> float:
        return max(self.price, MIN_CONFIDENCE)

    def commit(self, root: int, price: float) -> None:
        tree = self.tree
        walked = sum(1 for i in self.alive if tree.expanded[i] and tree.on_path(i) and tree.positions[i] <= root)
        self.tokens += root - self.root
        self.cached += walked
        self.root, self.price, self.sent = root, price, 0
        self.alive = [] if self.missing else tree.below(self.alive, root)
        self.expanded = sum([tree.expanded[i] for i in self.alive])
        self.refresh()

    def refresh(self) -> None:
        """The frontier anew: (confidence, node) of nodes whose likeliest child may be worth the price."""
        if self.missing or len(self.alive) >= self.max_nodes:
            self.frontier = []
            return
        tree, deepest, floor = self.tree, self.root + self.max_depth, self.floor
        nodes = [i for i in self.alive if not tree.expanded[i] and tree.positions[i] < deepest]
        confidences = tree.confidences(nodes, self.root)
        self.frontier = [(c, i) for c, i in zip(confidences, nodes, strict=True) if c * EXPECTED_CHILDREN > floor]

    def expand(self, node: int, confidence: float, rng: random.Random) -> int:
        """Adds the children of `node` (ROOT: the root) that are worth their price; returns how many."""
        room = self.max_nodes - len(self.alive)
        added = self.tree.expand(node, self.root, self.width, self.floor / confidence, room, rng)
        self.alive += range(len(self.tree) - added, len(self.tree))
        self.expanded += node != ROOT
        return added


@dataclass
class DraftTotals:
    passes: int = 0
    pass_seconds: float = 0.0
    drafted: int = 0
    refused: int = 0
    nodes: int = 0


class SimDrafter:
    def __init__(self, name: str, env: simpy.Environment, options: Options, rng: random.Random):
        self.name, self.env, self.options, self._rng = name, env, options, rng
        self.latency = ScaledCurve(options.draft, options.time_scale)
        self.sessions: dict[DraftTree, Session] = {}
        self.totals = DraftTotals()
        self._inbox: list[ToDrafter] = []
        self._wake: simpy.Event | None = None
        self._half_trip_s = options.round_trip_s / 2
        env.process(self._run())

    def receive(self, messages: list[ToDrafter]) -> None:
        self._inbox += messages
        if self._wake is not None:
            self._wake.succeed()
            self._wake = None

    def _run(self) -> Generator[simpy.Event, Any, None]:
        while True:
            while self._inbox:
                messages, self._inbox = self._inbox, []
                self._send([answer for message in messages if (answer := self._handle(message)) is not None])
            works = self._plan()
            if not works:
                self._wake = self.env.event()
                yield self._wake
                continue
            tokens = sum(len(nodes) or self._chunk(session) for session, nodes in works)
            kv_tokens = sum(session.kv_tokens + (len(nodes) or self._chunk(session)) for session, nodes in works)
            seconds = self.latency.seconds(tokens, kv_tokens) + self.options.overheads.pass_s
            yield self.env.timeout(seconds)
            self.totals.passes += 1
            self.totals.nodes += tokens
            self.totals.pass_seconds += seconds
            self._send([(s.verifier, self._announce(s)) for s in self._grow(works)])

    def _send(self, out: list[tuple[SimVerifier, ToVerifier]]) -> None:
        by_peer: dict[SimVerifier, list[ToVerifier]] = {}
        for peer, message in out:
            by_peer.setdefault(peer, []).append(message)
        for peer, messages in by_peer.items():
            after(self.env, self._half_trip_s, lambda peer=peer, messages=messages: peer.receive(messages))

    def _handle(self, message: ToDrafter) -> tuple[SimVerifier, ToVerifier] | None:
        if isinstance(message, Open):
            if len(self.sessions) >= self.options.config.drafter.max_sessions:
                self.totals.refused += 1
                return message.verifier, Refused(message.tree)
            self.sessions[message.tree] = session = Session(message)
            return session.verifier, self._announce(session)
        session = self.sessions.get(message.tree)
        if session is None:
            return None
        if isinstance(message, Close):
            del self.sessions[message.tree]
            return None
        assert isinstance(message, Commit)
        session.commit(message.root, message.price)
        return session.verifier, self._announce(session)

    def _chunk(self, session: Session) -> int:
        return min(session.missing, self.options.config.drafter.prefill_tokens)

    def _plan(self) -> list[tuple[Session, list[tuple[float, int]]]]:
        """Sessions of the next pass with the nodes to expand, none for a catch-up."""
        config = self.options.config.drafter
        prefill, candidates, works = config.prefill_tokens, [], []
        for session in self.sessions.values():
            if session.missing:
                if prefill > 0:
                    works.append((session, []))
                    prefill -= session.missing
            else:
                candidates += [(confidence, node, session) for confidence, node in session.frontier]
        candidates.sort(key=lambda c: (-c[0], c[1]))
        chosen: dict[Session, list[tuple[float, int]]] = {}
        for confidence, node, session in candidates[: config.pass_nodes]:
            chosen.setdefault(session, []).append((confidence, node))
        return works + list(chosen.items())

    def _grow(self, works: list[tuple[Session, list[tuple[float, int]]]]) -> list[Session]:
        """Sessions whose tree may have grown."""
        grown = []
        for session, nodes in works:
            for confidence, node in nodes:
                self.totals.drafted += session.expand(node, confidence, self._rng)
            if not nodes:
                session.cached += self._chunk(session)
                if session.missing:
                    continue
                self.totals.drafted += session.expand(ROOT, 1.0, self._rng)
            session.refresh()
            grown.append(session)
        return grown

    def _announce(self, session: Session) -> Grow:
        """What is new and what the next pass promises; no time where there is none."""
        config, eta_s, promised = self.options.config.drafter, 0.0, 0.0
        if session.missing:
            chunks = -(-session.missing // config.prefill_tokens)
            eta_s, promised = chunks * self.latency.seconds(self._chunk(session), session.tokens), 1.0
        elif session.frontier:
            best = sorted((c for c, _ in session.frontier), reverse=True)[: config.pass_nodes]
            eta_s, promised = self.latency.seconds(len(best), session.kv_tokens), sum(best)
        first, session.sent = session.sent == 0, len(session.alive)
        return Grow(session.tree, session.root, len(session.tree), first, eta_s, EXPECTED_CHILDREN * promised)
