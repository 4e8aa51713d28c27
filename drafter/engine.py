"""The drafter's engine: sessions in, trees out. No Ray, no network, no threads.

Promises: `handle` never raises for what a peer sent; a message that breaks the protocol drops its
own session with a reason. Each pass runs the draft once over the best frontier nodes of all
sessions, batched. What a commit pruned is never run.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from drafter.calibration_store import CalibrationStore
from drafter.session import Label, Session
from drafter.trace import TraceWriter
from drafthouse.choose import Row, rank
from drafthouse.config import DrafterConfig, TreeConfig
from drafthouse.engine.kv_cache import KvSequence
from drafthouse.engine.loader import LoadedModel
from drafthouse.engine.segment import Segment
from drafthouse.errors import OutOfKvSlots, WireError
from drafthouse.messages import Close, Commit, Dropped, Open, Opened, Refused, ToDrafterMessage, ToVerifierMessage
from drafthouse.noise import NOISE_VERSION
from drafthouse.policy.growth import Candidate, PassBudget
from drafthouse.policy.latency import LatencyModel
from drafthouse.token_tree import ROOT

Outgoing = tuple[str, ToVerifierMessage]
"""(peer, message): `peer` is whoever opened the session."""


@dataclass
class DraftTotals:
    sessions: int = 0
    passes: int = 0
    pass_seconds: float = 0.0
    drafted: int = 0
    dropped: int = 0
    refused: int = 0


Work = tuple[Session, list[Candidate]]
"""One session's part of a pass: nodes to expand, ascending; none for a catch-up chunk."""


class DrafterEngine:
    def __init__(
        self,
        model: LoadedModel,
        latency: LatencyModel,
        config: DrafterConfig,
        tree: TreeConfig,
        clock: Callable[[], float] = time.perf_counter,
        calibrations: CalibrationStore | None = None,
    ):
        """Without `calibrations` what is learned is not kept. Raises ConfigError when the trace's folder cannot be written."""
        self.runner, self.context, self.latency = model.runner, model.context, latency
        self.config, self.tree, self.clock = config, tree, clock
        self.budget = PassBudget(config.pass_nodes, config.prefill_tokens)
        self.sessions: dict[tuple[str, str], Session] = {}
        self.seen: dict[tuple[str, str], torch.Tensor] = {}
        self.calibrations = calibrations or CalibrationStore(model.fingerprint, None)
        self.trace = TraceWriter(config.trace) if config.trace else None
        self.committed = 0  # tokens of all sessions
        self.totals = DraftTotals()

    def handle(self, peer: str, message: ToDrafterMessage) -> list[Outgoing]:
        key = (peer, message.session)
        session = self.sessions.get(key)
        if isinstance(message, Open):
            return [(peer, answer) for answer in self._open(key, message)]
        if session is None or message.epoch != session.epoch:
            return []
        if isinstance(message, Close):
            self._forget(key)
            return []
        return [(peer, answer) for answer in self._commit(key, session, message)]

    def _open(self, key: tuple[str, str], message: Open) -> list[ToVerifierMessage]:
        current = self.sessions.get(key)
        if current is not None and current.epoch >= message.epoch:
            return []
        self._forget(key)
        reason = self._refusal(message)
        if reason:
            self.totals.refused += 1
            return [Refused(message.session, message.epoch, reason)]
        calibration = self.calibrations.of(message.target_fingerprint)
        kv = KvSequence(self.runner.cache)
        self.sessions[key] = session = Session(key[0], message, kv, self.context, self.tree.width, calibration, self.config.grow_ahead)
        self.committed += len(message.tokens)
        self.totals.sessions += 1
        if message.sampling.penalises:
            self.seen[key] = torch.zeros(self.runner.vocab_size, dtype=torch.bool, device=self.runner.cache.data.device)
            self.seen[key][list(message.tokens)] = True
        return [Opened(message.session, message.epoch), self._announce(session)]

    def _refusal(self, message: Open) -> str:
        if message.noise_version != NOISE_VERSION:
            return f"noise version {message.noise_version}, this drafter has {NOISE_VERSION}"
        if message.vocab_size != self.runner.vocab_size:
            return f"vocabulary of {message.vocab_size} tokens, this draft has {self.runner.vocab_size}"
        if len(message.tokens) >= self.context:
            return f"{len(message.tokens)} tokens, the draft's context is {self.context}"
        if len(self.sessions) >= self.config.max_sessions:
            return f"{len(self.sessions)} sessions, the limit is {self.config.max_sessions}"
        allocator, needed = self.runner.cache.allocator, len(message.tokens) + self.tree.max_nodes
        promised = self.committed + len(self.sessions) * self.tree.max_nodes
        if needed + promised > allocator.count or needed > allocator.free_count:
            return "no KV slots left"
        return ""

    def _commit(self, key: tuple[str, str], session: Session, message: Commit) -> list[ToVerifierMessage]:
        try:
            if max(message.tokens) >= self.runner.vocab_size:
                raise WireError(f"commit holds token {max(message.tokens)}, outside the vocabulary of {self.runner.vocab_size}")
            labels = session.commit(message.base_len, message.tokens, message.price)
        except WireError as error:
            return [self.drop(key, str(error))]
        self.committed += len(message.tokens)
        self._learn(session, labels)
        if len(session.tokens) >= self.context:
            return [self.drop(key, f"{len(session.tokens)} tokens, the draft's context is {self.context}")]
        if key in self.seen:
            self.seen[key][list(message.tokens)] = True
        return [self._announce(session)]

    def _learn(self, session: Session, labels: list[Label]) -> None:
        temperature = session.sampling.temperature
        for label in labels:
            session.calibration.observe(label.ranking.source, label.ranking.margins, temperature, label.hit)
        if self.trace is not None:
            self.trace.write(session.id, temperature, labels)
        self.calibrations.save_if_due(self.clock())

    def close(self) -> None:
        """Writes what is to be kept."""
        self.calibrations.save()
        if self.trace is not None:
            self.trace.flush()

    def drop(self, key: tuple[str, str], reason: str) -> Dropped:
        session = self.sessions[key]
        self._forget(key)
        self.totals.dropped += 1
        return Dropped(session.id, session.epoch, reason)

    def forget_peer(self, peer: str) -> None:
        """The peer's stream has ended: its sessions are gone."""
        for key in [key for key in self.sessions if key[0] == peer]:
            self._forget(key)

    def _forget(self, key: tuple[str, str]) -> None:
        session = self.sessions.pop(key, None)
        self.seen.pop(key, None)
        if session is not None:
            self.committed -= len(session.tokens)
            session.kv.release()
            if self.trace is not None:
                self.trace.flush()

    def has_work(self) -> bool:
        return any(s.missing or s.frontier.now or s.frontier.ahead for s in self.sessions.values())

    def run_pass(self) -> list[Outgoing]:
        """One draft pass, if any session wants it; returns what the verifiers should hear of it."""
        segments: list[Segment] = []
        planned: list[Work] = []
        out: list[Outgoing] = []
        for session, nodes in self.budget.plan(self.sessions.values()):
            try:
                segments.append(self._segment(session, nodes))
                planned.append((session, nodes))
            except OutOfKvSlots as error:
                out.append((session.key[0], self.drop(session.key, str(error))))
        if not planned:
            return out
        started = self.clock()
        result = self.runner.run(segments)
        grown = self._grow(planned, segments, result.logits)
        seconds = self.clock() - started
        self.totals.passes += 1
        self.totals.pass_seconds += seconds
        self.latency.observe(sum(map(len, segments)), sum(session.kv_tokens for session, _ in planned), seconds)
        return out + [(session.key[0], self._announce(session)) for session in grown]

    def _segment(self, session: Session, nodes: list[Candidate]) -> Segment:
        if nodes:
            return session.tree_segment([node for _, node in nodes])
        return session.catch_up_segment(self.config.prefill_tokens)

    def _grow(self, works: list[Work], segments: list[Segment], logits: torch.Tensor) -> list[Session]:
        """Adds the children that the pass drafted; returns the sessions whose tree may have grown."""
        parents: list[tuple[Session, int]] = []
        for (session, nodes), segment in zip(works, segments, strict=True):
            if nodes:
                session.expanded.extend(node for _, node in nodes)
                parents += [(session, node) for _, node in nodes]
            else:
                session.cached += len(segment)
                parents += [(session, ROOT)] if segment.outputs else []
        grown = list({session.key: session for session, _ in parents}.values())
        if not grown:
            return []
        rows = [self._row(session, node) for session, node in parents]
        ranked, margins = rank(logits, rows, max(session.width for session in grown))
        for (session, node), tokens, lead in zip(parents, ranked, margins, strict=True):
            self.totals.drafted += session.add_children(node, tokens, lead)
        for session in grown:
            session.refresh()
        return grown

    def _row(self, session: Session, node: int) -> Row:
        path = session.tree.path(node) if session.sampling.penalises else ()
        return Row(session.sampling, session.seed, session.position_below(node), path, self.seen.get(session.key))

    def _announce(self, session: Session) -> ToVerifierMessage:
        """A Grow with what is new and what the next pass promises."""
        seconds, expected = self.budget.announcement(session, self.latency)
        return session.grow_message(int(seconds * 1e6) + 1 if expected else 0, expected)
