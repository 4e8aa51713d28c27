"""The drafter's engine: sessions in, trees out. No Ray, no network, no threads.

Promises: `handle` never raises for what a peer sent; a message that breaks the protocol drops its
own session with a reason. With a draft model trees are grown in passes (`drafter.draft_model`); stages
without one add their nodes at once, as soon as a session opens, commits or has new nodes.
"""

import time
from collections.abc import Callable
from dataclasses import replace

import torch

from drafter.admission import SessionAdmission
from drafter.calibration_store import CalibrationStore
from drafter.draft_model import DraftModel
from drafter.fault_isolation import FaultIsolation
from drafter.learning import Learning
from drafter.lookahead import check_states
from drafter.session import Session
from drafter.session_maker import SessionMaker
from drafter.session_rules import SessionRules
from drafter.session_span import begun
from drafter.without_model import WithoutModel
from drafthouse.config.serving import DrafterConfig, ModelConfig, TreeConfig
from drafthouse.engine.kv_cache import KvCache
from drafthouse.engine.loader import LoadedModel
from drafthouse.engine.model_runner import check_device
from drafthouse.errors import WireError
from drafthouse.policy.latency import LatencyModel
from drafthouse.stages.build import MODEL, inner_of, placed
from drafthouse.stages.stage_totals import StageTotals
from drafthouse.telemetry.spans import Spans
from drafthouse.wire.session_messages import Close, Commit, Dropped, Hold, Open, Opened, Refused, Scope, ToDrafterMessage, ToVerifierMessage
from drafthouse.wire.states import StatesWish
from drafthouse.wire.totals import DraftTotals

Outgoing = tuple[str, ToVerifierMessage]
"""(peer, message): `peer` is whoever opened the session."""


DRAINING = "this drafter drains"
UNKNOWN = "no such session"
"""The answer to its commits: to a verifier that has ended it, too, this is stale, and to one that still counts on it, the end."""


class DrafterEngine:
    def __init__(
        self,
        model: LoadedModel | WithoutModel,
        latency: LatencyModel | None,
        config: DrafterConfig,
        tree: TreeConfig,
        clock: Callable[[], float] = time.perf_counter,
        calibrations: CalibrationStore | None = None,
        draft: ModelConfig | None = None,
        spans: Spans | None = None,
    ):
        """`latency` is the draft model's; `draft` says where its files lie. Without `calibrations` what is learned is not kept.
        With `spans`, sessions whose verifiers have spans have some here.

        Raises ConfigError when a stage cannot be built or the trace's folder cannot be written.
        """
        self.config, self.tree, self.clock, self.spans = config, tree, clock, spans
        self.vocab_size = model.runner.vocab_size if isinstance(model, LoadedModel) else model.vocab_size
        makers = placed(config.stages, "drafter", draft, self.vocab_size, config.shared_noise)
        self.draft: DraftModel | None = None
        self.cache = KvCache(0, 0, 0, 0, torch.float32, torch.device("cpu"))
        if isinstance(model, LoadedModel):
            assert latency is not None
            inner = inner_of(config.stages, draft, self.vocab_size, config.shared_noise)
            check_states(model, inner)
            self.draft, self.cache = DraftModel(model, latency, config, clock, inner), model.runner.cache
        cache = self.cache if self.draft is not None else None
        self.admission = SessionAdmission(config, tree, cache, model.context, self.vocab_size, model.vocabulary)
        self.rules = SessionRules(model.context, tree.width, tree.grow_during_verification, config.window, self.draft is not None)
        self.sessions: dict[tuple[str, str], Session] = {}
        self.calibrations = calibrations or CalibrationStore(model.fingerprint, None)
        self.totals, self.stage_totals = DraftTotals(), StageTotals()
        traced = MODEL if self.draft is not None else makers[0].source
        self.learning = Learning(self.calibrations, config.trace, traced, self.totals)
        self.wish: StatesWish | None = None  # the states that it asks verifiers for
        if isinstance(model, LoadedModel) and model.state_inputs is not None:
            self.wish = StatesWish(model.state_size)
        self._fault_isolation, self._draining = FaultIsolation(), False
        self.maker = SessionMaker(
            self.draft, self.cache, self.vocab_size, makers, self.calibrations, self.stage_totals, self.wish, model.tokenizer, clock
        )

    @property
    def expected_s(self) -> float:
        """What the pass that was begun last should take. From any thread."""
        return self.draft.expected_s if self.draft is not None else 0.0

    def reconfigure(self, config: DrafterConfig, tree: TreeConfig) -> None:
        """From now on these hold, as far as they are live (`drafthouse.config.live`). Sessions that are open stay as they are."""
        self.config, self.tree = config, tree
        self.admission.config, self.admission.tree = config, tree
        self.rules = replace(self.rules, width=tree.width)

    def handle(self, peer: str, message: ToDrafterMessage) -> list[Outgoing]:
        key = (peer, message.session_id)
        session = self.sessions.get(key)
        if isinstance(message, Open):
            return [(peer, answer) for answer in self._open(key, message)]
        if session is None or message.epoch != session.epoch:
            lost = isinstance(message, Commit) and (session is None or session.epoch < message.epoch)
            return [(peer, Dropped(message.session_id, message.epoch, UNKNOWN))] if lost else []
        if isinstance(message, Close):
            self._forget(key, message.finished)
            return []
        if isinstance(message, Hold):
            session.hold()
            return []
        return [(peer, answer) for answer in self._commit(key, session, message)]

    def fail(self, peer: str, session: str, epoch: int, reason: str) -> list[Outgoing]:
        """A message of this session could not be read."""
        current = self.sessions.get((peer, session))
        known = current is not None and current.epoch == epoch
        return [(peer, self.drop((peer, session), reason) if known else Dropped(session, epoch, reason))]

    def _open(self, key: tuple[str, str], message: Open) -> list[ToVerifierMessage]:
        current = self.sessions.get(key)
        if current is not None and current.epoch >= message.epoch:
            return []
        self._forget(key)
        if (refused := self._refusal(message)) is not None:
            self.totals.refused += 1
            return [refused]
        self.sessions[key] = session = self.maker.session(key[0], message, self.rules)
        if self.spans is not None:
            session.span = begun(self.spans, message, self.clock())
        self.admission.reserve(session)
        self.totals.sessions += 1
        session.grow_stages()
        return [Opened(message.session_id, message.epoch), self._announce(session)]

    def _refusal(self, message: Open) -> Refused | None:
        if self._draining:
            return Refused(message.session_id, message.epoch, DRAINING)
        if self._fault_isolation.refuses(message.session_id, self.clock()):
            return Refused(message.session_id, message.epoch, "a draft pass of this session failed here")
        return self.admission.refusal(message, len(self.sessions))

    def _commit(self, key: tuple[str, str], session: Session, message: Commit) -> list[ToVerifierMessage]:
        if reason := self.admission.unknown(message.tokens):
            return [self.drop(key, reason, Scope.SEQUENCE)]
        if session.processors is not None:  # first: stages ask what it forces behind these tokens
            session.processors.commit(message.tokens)
        try:
            self._take_states(session, message)
            labels = session.commit(message.base_len, message.tokens, message.min_confidence, self.clock())
        except WireError as error:
            return [self.drop(key, str(error))]
        session.worth = message.worth
        self.admission.reserve(session)
        self.totals.commits += 1
        self.totals.predrafted += session.kept > 0
        self.learning.learn(session, labels, self.clock())
        if reason := self.admission.too_long(len(session.tokens)):
            return [self.drop(key, reason, Scope.SEQUENCE)]
        return [self._announce(session)]

    def _take_states(self, session: Session, message: Commit) -> None:
        """Raises WireError."""
        if session.states is not None:
            began = self.clock()
            session.states.commit(message.states, message.base_len + len(message.tokens), session.cached)
            self.totals.state_bytes += len(message.states)
            self.totals.state_seconds += self.clock() - began
        elif message.states:
            raise WireError("commit.states: this drafter has asked for none")

    def close(self) -> None:
        """Writes what is to be kept."""
        self.maker.close()
        self.learning.close()

    def drop(self, key: tuple[str, str], reason: str, scope: Scope = Scope.MOMENT) -> Dropped:
        session = self.sessions[key]
        self._forget(key, dropped=reason)
        self.totals.dropped += 1
        return Dropped(session.id, session.epoch, reason, scope)

    def drain(self) -> list[Outgoing]:
        """From now on every Open is refused; what there is is dropped."""
        self._draining = True
        return [(key[0], self.drop(key, DRAINING)) for key in list(self.sessions)]

    def forget_peer(self, peer: str) -> None:
        """The peer's stream has ended: its sessions are gone."""
        for key in [key for key in self.sessions if key[0] == peer]:
            self._forget(key)

    def _forget(self, key: tuple[str, str], finished: bool = False, dropped: str = "") -> None:
        """`dropped`: why it is given up here; empty: its verifier has ended it, or is gone."""
        session = self.sessions.pop(key, None)
        if session is not None:
            if session.span is not None:
                session.span.end(self.clock(), len(session.tokens), dropped)
            self.admission.release(session)
            self._fault_isolation.remove(session)
            session.close(finished)
            self.learning.ended()

    def has_work(self) -> bool:
        return any(session.wants_pass for session in self.sessions.values())

    def run_pass(self) -> list[Outgoing]:
        """One draft pass, if any session wants it; returns what the verifiers should hear of it."""
        if self.draft is None:
            return []
        suspect, began = self._fault_isolation.first(), self.clock() if self.spans is not None else 0.0
        grown, failed = self.draft.run_pass(self.sessions.values() if suspect is None else [suspect], self.totals)
        if suspect is not None:
            self._fault_isolation.passed(suspect)
        if self.spans is not None:
            now = self.clock()
            for session in self.draft.running:
                if session.span is not None:
                    session.span.passed(began, now, session.missing, len(session.tree))
        out = [(session.key[0], self.drop(session.key, reason)) for session, reason in failed]
        return [*out, *((session.key[0], self._announce(session)) for session in grown)]

    def recover(self, reason: str) -> list[Outgoing]:
        """After a pass that raised: what ran together starts anew, one by one, and what fails alone is dropped, and refused for a while.

        What verifiers have of the trees holds; they hear of the new ones when those have grown. Raises what the device raises when it
        fails without any session, too.
        """
        ran = [s for s in self.draft.running if self.sessions.get(s.key) is s] if self.draft is not None else []
        if not ran:  # it failed before it came to any
            suspect = self._fault_isolation.first()
            ran = list(self.sessions.values()) if suspect is None else [suspect]
        if len(ran) == 1:
            self._fault_isolation.blame(ran[0], self.clock())
            ran[0].forget_kv()
            dropped = self.drop(ran[0].key, reason)
            self.cache.allocator.forget_prefixes()
            if self.draft is not None and self.cache.allocator.free_count:
                check_device(self.draft.runner)
            return [(ran[0].key[0], dropped)]
        for session in ran:
            session.restart()
            self._fault_isolation.add(session)
        self.cache.allocator.forget_prefixes()
        return []

    def _announce(self, session: Session) -> ToVerifierMessage:
        """A Grow with what is new and what the next pass promises."""
        seconds, expected = self.draft.announcement(session) if self.draft is not None else (0.0, 0.0)
        return session.grow_message(int(seconds * 1e6) + 1 if expected else 0, expected)
