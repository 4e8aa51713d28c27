"""One drafter replica: sessions in, passes, trees out, as `drafter/engine.py` and `drafter/pass_loop.py` do it.

Promises: a pass is never begun while messages wait; one pass runs over the best frontier nodes of
all sessions that the growth policy finds worth their price; catch-ups come first.
"""

import random
from collections.abc import Generator
from functools import partial
from typing import Any

import simpy

from drafthouse.policy.growth import Frontier, GrowthThreshold, PassBudget, ScoredNode, worth_a_pass
from drafthouse.policy.latency import ScaledCurve
from drafthouse.token_tree import ROOT
from drafthouse.wire.session_messages import Close, Grow, Hold, Refused, ToVerifierMessage
from drafthouse.wire.totals import DraftTotals
from simulator.draft_session import Drafted
from simulator.mix import DrafterKind
from simulator.options import Options
from simulator.verifier import SimVerifier
from simulator.wire import Opening, ToDrafter, after


class Session:
    """The drafter's side: what is cached of the committed tokens, the nodes below the root, and those worth a pass."""

    __slots__ = (
        "ahead", "alive", "cached", "epoch", "expanded", "expected_children", "frontier", "id", "landings", "max_depth", "max_nodes",
        "min_confidence", "on_hold", "root", "sent", "tokens", "tree", "verifier", "width", "worth",
    )  # fmt: skip

    def __init__(self, opening: Opening, verifier: SimVerifier, width: int, ahead: bool):
        opened = opening.message
        self.verifier, self.id, self.epoch, self.tree = verifier, opened.session_id, opened.epoch, opening.tree
        self.tokens, self.min_confidence, self.worth = len(opened.tokens), opened.min_confidence, opened.worth
        self.root = self.tokens - opening.prompt_tokens - 1  # its output position, -1 for the prompt's last token
        self.max_nodes, self.max_depth, self.width = opened.max_nodes, opened.max_depth, opened.width or width
        self.cached = self.sent = self.expanded = 0
        self.alive: list[int] = []
        self.ahead, self.on_hold, self.frontier = ahead, False, Frontier([], [])
        self.landings: dict[int, float] = {}
        self.expected_children = self.tree.text.expected_children(self.width)

    @property
    def missing(self) -> int:
        """Committed tokens without KV; nothing is drafted before they have it."""
        return self.tokens - self.cached

    @property
    def kv_tokens(self) -> int:
        return self.cached + self.expanded

    def commit(self, count: int, min_confidence: float) -> None:
        tree, root = self.tree, self.root + count
        walked = sum(1 for i in self.alive if tree.expanded[i] and tree.on_path(i) and tree.positions[i] <= root)
        self.tokens += count
        self.cached += walked
        self.root, self.min_confidence, self.sent, self.on_hold = root, min_confidence, 0, False
        self.alive = [] if self.missing else tree.below(self.alive, root)
        self.expanded = sum([tree.expanded[i] for i in self.alive])
        self.refresh()

    def hold(self) -> None:
        self.on_hold = True
        self.refresh()

    def refresh(self) -> None:
        """The frontier again, after any change of tree or threshold."""
        if self.missing or self.on_hold or len(self.alive) >= self.max_nodes:
            self.frontier = Frontier([], [])
            return
        tree, deepest, threshold = self.tree, self.root + self.max_depth, self.threshold
        confidences = tree.confidences(self.alive, self.root)
        landings = self.landings = {}
        for i, confidence in zip(self.alive, confidences, strict=True):
            landings[i] = threshold.landing(confidence, landings.get(tree.parents[i], 1.0))
        unexpanded = (
            (confidence, i, landings[i])
            for i, confidence in zip(self.alive, confidences, strict=True)
            if not tree.expanded[i] and tree.positions[i] < deepest
        )
        self.frontier = worth_a_pass(unexpanded, self.expected_children, threshold)

    @property
    def threshold(self) -> GrowthThreshold:
        return GrowthThreshold.at(self.min_confidence, self.ahead)

    def expand(self, node: int, confidence: float, rng: random.Random) -> int:
        """Adds the children of `node` (ROOT: the root) that are worth a place; returns how many."""
        max_children = self.max_nodes - len(self.alive)
        least = self.threshold.place(self.landings.get(node, 1.0))
        added = self.tree.expand(node, self.root, confidence, self.width, least, max_children, rng)
        self.alive += range(len(self.tree) - added, len(self.tree))
        self.expanded += node != ROOT
        return added


class SimDrafter:
    def __init__(self, name: str, env: simpy.Environment, options: Options, rng: random.Random, kind: DrafterKind):
        self.name, self.env, self.options, self._rng = name, env, options, rng
        self.latency = ScaledCurve(kind.curve, options.time_scale)
        self.round_trip_s = options.round_trip_s if kind.round_trip_s is None else kind.round_trip_s
        self.sessions: dict[tuple[SimVerifier, str], Session] = {}
        self.budget = PassBudget(options.config.drafter.prefill_tokens, self.latency)
        self.totals = DraftTotals()
        self.pass_tokens = 0  # of all passes
        self._inbox: list[tuple[SimVerifier, ToDrafter]] = []
        self._wake: simpy.Event | None = None
        env.process(self._run())

    def receive(self, verifier: SimVerifier, messages: list[ToDrafter]) -> None:
        self._inbox += [(verifier, message) for message in messages]
        if self._wake is not None:
            self._wake.succeed()
            self._wake = None

    def _run(self) -> Generator[simpy.Event, Any, None]:
        while True:
            while self._inbox:
                messages, self._inbox = self._inbox, []
                self._send([answer for peer, message in messages if (answer := self._handle(peer, message)) is not None])
            works = self.budget.plan(self.sessions.values(), lambda session: session.worth)
            if not works:
                self._wake = self.env.event()
                yield self._wake
                continue
            tokens = sum(len(nodes) or self._chunk(session) for session, nodes in works)
            kv_tokens = sum(session.kv_tokens + (len(nodes) or self._chunk(session)) for session, nodes in works)
            seconds = self.latency.seconds(tokens, kv_tokens) + self.options.overheads.pass_s
            yield self.env.timeout(seconds)
            self.totals.passes += 1
            self.pass_tokens += tokens
            self.totals.pass_seconds += seconds
            self._send([(s.verifier, self._announce(s)) for s in self._grow(works)])

    def _send(self, out: list[tuple[SimVerifier, ToVerifierMessage]]) -> None:
        by_peer: dict[SimVerifier, list[ToVerifierMessage]] = {}
        for peer, message in out:
            by_peer.setdefault(peer, []).append(message)
        for peer, messages in by_peer.items():
            after(self.env, self.round_trip_s / 2, partial(peer.receive, self.name, messages))

    def _handle(self, verifier: SimVerifier, message: ToDrafter) -> tuple[SimVerifier, ToVerifierMessage] | None:
        if isinstance(message, Opening):
            return verifier, self._open(verifier, message)
        session = self.sessions.get((verifier, message.session_id))
        if session is None or session.epoch != message.epoch:
            return None
        if isinstance(message, Close):
            del self.sessions[verifier, message.session_id]
            return None
        if isinstance(message, Hold):
            session.hold()
            return None
        session.commit(len(message.tokens), message.min_confidence)
        session.worth = message.worth
        return verifier, self._announce(session)

    def _open(self, verifier: SimVerifier, opening: Opening) -> ToVerifierMessage:
        config, opened = self.options.config, opening.message
        if len(self.sessions) >= config.drafter.max_sessions:
            self.totals.refused += 1
            return Refused(opened.session_id, opened.epoch, "the limit of sessions")
        self.sessions[verifier, opened.session_id] = session = Session(
            opening, verifier, config.tree.width, config.tree.grow_during_verification
        )
        return self._announce(session)

    def _chunk(self, session: Session) -> int:
        return min(session.missing, self.options.config.drafter.prefill_tokens)

    def _grow(self, works: list[tuple[Session, list[ScoredNode]]]) -> list[Session]:
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
        """What is new and what the next pass promises."""
        seconds, expected = self.budget.announcement(session)
        first, session.sent = session.sent, len(session.alive)
        nodes: Any = Drafted(len(session.tree), session.sent - first)
        return Grow(session.id, session.epoch, session.tokens, first, nodes, int(seconds * 1e6) + 1 if expected else 0, expected)
