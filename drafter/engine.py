"""The drafter's engine: sessions in, trees out. No Ray, no network, no threads.

Promises: `handle` never raises for what a peer sent; a message that breaks the protocol drops its
own session with a reason. Each pass runs the draft once over the best frontier nodes of all
sessions, batched. What a commit pruned is never run.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from drafter.session import Session
from drafthouse.choose import Row, rank
from drafthouse.config import DrafterConfig, TreeConfig
from drafthouse.engine.kv_cache import KvSequence
from drafthouse.engine.loader import LoadedModel
from drafthouse.engine.segment import Segment
from drafthouse.errors import OutOfKvSlots, WireError
from drafthouse.messages import Close, Commit, Dropped, Open, Opened, Refused, ToDrafterMessage, ToVerifierMessage
from drafthouse.noise import NOISE_VERSION
from drafthouse.policy.edges import edge_probabilities
from drafthouse.policy.latency import LatencyModel
from drafthouse.token_tree import ROOT

Outgoing = tuple[str, ToVerifierMessage]
"""(peer, message): `peer` is whoever opened the session."""

DRAFT_MODEL_SOURCE = 0


@dataclass
class DraftTotals:
    sessions: int = 0
    passes: int = 0
    pass_seconds: float = 0.0
    drafted: int = 0
    dropped: int = 0
    refused: int = 0


@dataclass(slots=True)
class _Work:
    """One session's part of a pass: nodes to expand, or none for a catch-up chunk."""

    session: Session
    nodes: list[int] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)


class DrafterEngine:
    def __init__(
        self,
        model: LoadedModel,
        latency: LatencyModel,
        config: DrafterConfig,
        tree: TreeConfig,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self.runner, self.context, self.latency = model.runner, model.context, latency
        self.config, self.tree, self.clock = config, tree, clock
        self.sessions: dict[tuple[str, str], Session] = {}
        self.seen: dict[tuple[str, str], torch.Tensor] = {}
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
        self.sessions[key] = session = Session(message, KvSequence(self.runner.cache), self.context)
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
        promised = sum(max(0, len(s.tokens) + self.tree.max_nodes - len(s.kv)) for s in self.sessions.values())
        if len(message.tokens) + self.tree.max_nodes + promised > self.runner.cache.allocator.free_count:
            return "no KV slots left"
        return ""

    def _commit(self, key: tuple[str, str], session: Session, message: Commit) -> list[ToVerifierMessage]:
        try:
            session.commit(message.base_len, message.tokens, message.price)
            if max(message.tokens) >= self.runner.vocab_size:
                raise WireError(f"commit holds token {max(message.tokens)}, outside the vocabulary of {self.runner.vocab_size}")
        except WireError as error:
            return [self.drop(key, str(error))]
        if len(session.tokens) >= self.context:
            return [self.drop(key, f"{len(session.tokens)} tokens, the draft's context is {self.context}")]
        if key in self.seen:
            self.seen[key][list(message.tokens)] = True
        return [self._announce(session)]

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
            session.kv.release()

    def has_work(self) -> bool:
        return any(s.needs_catch_up or s.frontier() for s in self.sessions.values())

    def _plan(self) -> list[_Work]:
        """Catch-ups first (without them nothing can be drafted), then the best frontier nodes of all trees."""
        works, left, prefill = {}, self.config.pass_nodes, self.config.prefill_tokens
        candidates: list[tuple[float, int, tuple[str, str]]] = []
        for key, session in self.sessions.items():
            if session.needs_catch_up:
                if prefill > 0:
                    works[key] = _Work(session)
                    prefill -= len(session.tokens) - session.cached
            else:
                candidates += [(confidence, node, key) for confidence, node in session.frontier()]
        candidates.sort(key=lambda c: (-c[0], c[1]))
        for confidence, node, key in candidates[:left]:
            work = works.setdefault(key, _Work(self.sessions[key]))
            work.nodes.append(node)
            work.confidences.append(confidence)
        return list(works.values())

    def run_pass(self) -> list[Outgoing]:
        """One draft pass, if any session wants it; returns what the verifiers should hear of it."""
        works = self._plan()
        segments: list[Segment] = []
        planned: list[_Work] = []
        out: list[Outgoing] = []
        keys = {id(session): key for key, session in self.sessions.items()}
        for work in works:
            try:
                segments.append(self._segment(work))
                planned.append(work)
            except OutOfKvSlots as error:
                key = keys[id(work.session)]
                out.append((key[0], self.drop(key, str(error))))
        if not planned:
            return out
        started = self.clock()
        result = self.runner.run(segments)
        grown = self._grow(planned, segments, result.logits, keys)
        seconds = self.clock() - started
        self.totals.passes += 1
        self.totals.pass_seconds += seconds
        self.latency.observe(sum(map(len, segments)), self._kv_tokens(planned), seconds)
        return out + [(keys[id(s)][0], self._announce(s)) for s in grown]

    def _kv_tokens(self, works: list[_Work]) -> int:
        return sum(len(work.session.kv) for work in works)

    def _segment(self, work: _Work) -> Segment:
        if work.nodes:
            work.nodes.sort()
            return work.session.tree_segment(work.nodes)
        return work.session.catch_up_segment(self.config.prefill_tokens)

    def _grow(self, works: list[_Work], segments: list[Segment], logits: torch.Tensor, keys: dict[int, tuple[str, str]]) -> list[Session]:
        """Adds the children that the pass drafted; returns the sessions whose tree may have grown."""
        rows: list[Row] = []
        parents: list[tuple[Session, int]] = []
        for work, segment in zip(works, segments, strict=True):
            session = work.session
            if work.nodes:
                session.expanded += work.nodes
            else:
                session.cached += len(segment)
            depths = session.tree.depths()
            for node in work.nodes or ([ROOT] if segment.outputs else []):
                depth = 0 if node == ROOT else depths[node]
                path = session.tree.path(node) if session.sampling.penalises else ()
                seen = self.seen.get(keys[id(session)])
                rows.append(Row(session.sampling, session.seed, len(session.tokens) + depth, path, seen))
                parents.append((session, node))
        if rows:
            ranked, margins = rank(logits, rows, max(session.width or self.tree.width for session, _ in parents))
            for (session, node), tokens, lead in zip(parents, ranked, margins, strict=True):
                width = session.width or self.tree.width
                self._add_children(session, node, tokens[:width], edge_probabilities(lead[:width], session.sampling.greedy))
        return list({id(s): s for s, _ in parents}.values())

    def _add_children(self, session: Session, parent: int, tokens: list[int], edges: list[float]) -> None:
        confidence = 1.0 if parent == ROOT else session.tree.path_confidences()[parent]
        for token, edge in zip(tokens, edges, strict=True):
            if confidence * edge >= session.floor() and len(session.tree) < session.max_nodes:
                session.tree.add(token, parent, edge, DRAFT_MODEL_SOURCE)
                self.totals.drafted += 1

    def _announce(self, session: Session) -> ToVerifierMessage:
        """A Grow with what is new and what the next pass promises."""
        if session.needs_catch_up:
            missing = len(session.tokens) - session.cached
            chunks = -(-missing // self.config.prefill_tokens)
            seconds = chunks * self.latency.seconds(min(missing, self.config.prefill_tokens), len(session.tokens))
            return session.grow_message(int(seconds * 1e6) + 1, session.expected_tokens([1.0]))
        best = sorted((c for c, _ in session.frontier()), reverse=True)[: self.config.pass_nodes]
        if not best:
            return session.grow_message(0, 0.0)
        seconds = self.latency.seconds(len(best), len(session.kv))
        return session.grow_message(int(seconds * 1e6) + 1, session.expected_tokens(best))
