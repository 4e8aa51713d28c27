"""The verifier's engine: schedule -> run -> commit. No Ray, no network, no threads.

Promises: never waits by itself; `step` either runs or says until when drafts are worth waiting
for. Every submitted request gets exactly one reply with a finish_reason, unless it is cancelled.
"""

import time
from collections.abc import Callable
from collections.abc import Sequence as TypingSequence
from dataclasses import dataclass, field

from drafthouse.config.serving import TreeConfig, VerifierConfig
from drafthouse.engine.kv_cache import KvSequence
from drafthouse.engine.loader import LoadedModel
from drafthouse.engine.model_runner import check_device
from drafthouse.errors import RequestError
from drafthouse.policy.latency import LatencyModel
from drafthouse.policy.node_pricing import NodePricing
from drafthouse.policy.start_rule import GAIN_SHARE, WHOLE_GAIN, Announcement, wait_until
from drafthouse.stages.build import StageMaker
from drafthouse.wire.generation_messages import GenerateReply, GenerateRequest
from drafthouse.wire.session_messages import ToVerifierMessage
from verifier import step as steps
from verifier.acceptance import Acceptance
from verifier.admission import Admission, check_fits
from verifier.draft_sessions import DraftSessions
from verifier.local_draft import STEP_S, LocalDrafts
from verifier.node_selection import Selected, choose_nodes
from verifier.scheduler import Scheduler, StepPlan
from verifier.sequence import Sequence, seen_tokens
from verifier.session_policy import SessionPolicy
from verifier.step_times import StepTimes
from verifier.totals import VerifyTotals

FIXED_WAIT_S = 0.5
"""Modes `fixed` and `table` wait so long for its tree, then steps with what is there."""


@dataclass(slots=True)
class StepOutcome:
    """`replies` to the gateways, or `wait_until` (seconds on the engine's clock) when it did not run."""

    replies: list[GenerateReply] = field(default_factory=list)
    wait_until: float | None = None
    idle: bool = False


class VerifierEngine:
    def __init__(
        self,
        model: LoadedModel,
        latency: LatencyModel,
        config: VerifierConfig,
        tree: TreeConfig,
        clock: Callable[[], float] = time.perf_counter,
        stages: TypingSequence[StageMaker] = (),
    ):
        """`stages` are those that run in this process."""
        self.runner, self.context, self.latency, self.clock = model.runner, model.context, latency, clock
        self.scheduler = Scheduler(config, self.runner.cache.allocator)
        self.draft_sessions = DraftSessions(config, tree, self.runner.vocab_size, model.fingerprint)
        self.local = LocalDrafts(stages, tree, self.runner.vocab_size, clock)
        self.pricing = NodePricing(latency)
        self.session_policy = SessionPolicy(self.draft_sessions, self.pricing)
        self.synthetic_rate = config.synthetic_acceptance.rate if config.synthetic_acceptance is not None else None
        self.sequences: dict[str, Sequence] = {}
        self.totals, self.acceptance = VerifyTotals(), Acceptance()
        self.times = StepTimes(self.totals)
        self.admission = Admission(self.scheduler, self.totals)
        self._gain_share = GAIN_SHARE if tree.grow_during_verification else WHOLE_GAIN
        self._busy_since: float | None = None
        self._trees = 0  # of selected nodes
        self._stepping: list[Sequence] = []
        self._replies: list[GenerateReply] = []  # of the step in progress: said even if the rest of it fails

    def submit(self, request: GenerateRequest) -> None:
        """Raises RequestError for what can never be served here, OverloadError when the queue is full."""
        check_fits(request, self.context, self.runner.cache.allocator.count, self.runner.vocab_size)
        older = self.sequences.get(request.request_id)
        if older is not None and older.request.attempt >= request.attempt:
            raise RequestError(f"request {request.request_id} is running already, attempt {older.request.attempt}", "request")
        if older is not None:
            self.totals.superseded += 1
            self._release(older)
        self.admission.take_place(resumed=request.resumed or bool(request.delivered), now=self.clock())
        seen = seen_tokens(request, self.runner.vocab_size, self.runner.cache.data.device)
        sequence = Sequence(request, KvSequence(self.runner.cache), seen, synthetic=self.synthetic_rate is not None)
        sequence.arrived, sequence.local = self.clock(), self.local.open(request)
        self.scheduler.add(sequence)
        self.sequences[request.request_id] = sequence
        self.session_policy.arrived(sequence, self.clock())

    def cancel(self, request_id: str, attempt: int, heard_at_step: int | None = None) -> None:
        """Frees what this attempt holds; a later one that has superseded it is left alone. `heard_at_step`: see `Admission`."""
        sequence = self.sequences.get(request_id)
        if sequence is not None and sequence.request.attempt == attempt:
            self.admission.cancelled(sequence, heard_at_step)
            self._release(sequence)

    def _release(self, sequence: Sequence, finished: bool = False) -> None:
        """Its KV slots, its draft session and its place in the queue; `finished` if it has come to its own end."""
        del self.sequences[sequence.id]
        self.draft_sessions.close(sequence, finished)
        if sequence.local is not None:
            sequence.local.close(finished)
        self.scheduler.remove(sequence)

    def receive(self, drafter: str, message: ToVerifierMessage, arrived: float | None = None) -> None:
        """`arrived`: when, on the engine's clock, if not now; what comes during a run is taken in after it."""
        self.draft_sessions.receive(drafter, self.sequences.get(message.session_id), message, self.clock() if arrived is None else arrived)

    def fail_session(self, session: str, epoch: int, reason: str) -> None:
        """A message of this session could not be read."""
        sequence = self.sequences.get(session)
        if sequence is not None and sequence.draft_session is not None and sequence.draft_session.epoch == epoch:
            self.draft_sessions.fail(sequence, reason, self.clock())

    def lose_drafter(self, drafter: str) -> None:
        self.draft_sessions.lost(drafter, self.sequences.values())

    def recover(self, reason: str) -> list[GenerateReply]:
        """After a step that raised: what ran together is tried one by one, and what fails alone ends with an error reply.
        First comes what was committed before it raised.

        Raises what the device raises when it fails without any request of theirs, too.
        """
        replies, self._replies = self._replies, []
        if not self.scheduler.suspects:
            self.scheduler.suspect()
        s = self._stepping[0]
        if len(self._stepping) > 1 or self.sequences.get(s.id) is not s:
            return replies
        self.totals.failed += 1
        self._release(s)
        check_device(self.runner)
        return [*replies, GenerateReply(s.id, s.request.attempt, s.output_len, (), "error", reason, s.usage)]

    def step(self, arrivals: Callable[[], None] = lambda: None, departures: Callable[[], None] = lambda: None) -> StepOutcome:
        """`departures` is called before the device begins, to send what is in the outbox; `arrivals` when it is done and nothing is
        committed yet, to take in (by `receive`) what drafters sent meanwhile: those nodes are still numbered below the old root and
        re-root with it."""
        started = now = self.clock()
        plan = self.scheduler.plan()
        self.admission.begin_step(now)
        if not plan.decoding and not plan.prefilling:
            self._busy_since = None
            self.times.idle()
            self.pricing.quote(1, 0, 0)
            return StepOutcome(idle=True)
        self._stepping, self._replies = plan.sequences, []
        kv_tokens = sum(len(s.kv) for s in plan.decoding) + sum(len(s.kv) for s, _ in plan.prefilling)
        self.draft_sessions.decoding = len(plan.decoding)
        self.pricing.quote(len(plan.decoding), plan.prompt_tokens, kv_tokens)
        if (until := self._wait(plan, now)) is not None:
            self.times.gather(now)
            return StepOutcome(wait_until=until)
        self.session_policy.begin_step(self.sequences.values(), plan.decoding, now)
        selected = self._select(plan, kv_tokens)
        self.draft_sessions.hold(plan.decoding)
        departures()
        entries = steps.build(plan, selected.trees)
        ready = self.clock()
        self.times.begin(plan, started, ready)
        result = self.runner.run([entry.segment for entry in entries])
        arrivals()
        walked = steps.walk(entries, result.logits, self.synthetic_rate)
        self.acceptance.observe(walked, selected.trees)
        now = self.clock()
        self.times.chose(ready, result.seconds, now)
        self._commit(walked, selected, now)
        self._account(plan, selected, len(walked), kv_tokens, result.seconds, started, now)
        return StepOutcome(self._replies)

    def _wait(self, plan: StepPlan, now: float) -> float | None:
        """Until when to wait for drafts, or None to start. Prompt chunks never wait."""
        if plan.prefilling:
            return None
        announcements: list[Announcement] = []
        for s in plan.decoding:
            if s.draft_session is None or s.draft_session.exhausted or s.max_draft_depth <= 0:
                continue
            if s.request.speculation.waits:
                s.fixed_deadline = s.fixed_deadline or now + FIXED_WAIT_S
                if len(s.draft_session.tree) < self.draft_sessions.wanted(s.request.speculation) and now < s.fixed_deadline:
                    return s.fixed_deadline
            elif (expected := s.draft_session.expected(s.max_draft_depth)) is not None:
                announcements.append(expected)
        return wait_until(now, announcements, self.pricing.value_of_a_second, self._gain_share)

    def _select(self, plan: StepPlan, kv_tokens: int) -> Selected:
        until = self.local.totals.stage_seconds + STEP_S
        for s in plan.decoding:
            if s.local is not None and self.local.totals.stage_seconds < until:
                s.count(drafted=s.local.grow(self.pricing.price, s.max_draft_depth))
        taken = len(plan.decoding) + plan.prompt_tokens
        limit = min(self.runner.cache.allocator.free_count, self.scheduler.config.step_tokens) - taken
        selected = choose_nodes(plan, kv_tokens, self.pricing, self.draft_sessions.wanted, limit)
        if selected.best_edge is not None:
            self.session_policy.gate.observe_edge(selected.best_edge)
        return selected

    def _commit(self, walked: list[steps.Walked], selected: Selected, now: float) -> None:
        for w in walked:
            s = w.sequence
            if s.draft_session is not None:
                s.draft_session.verified(*selected.drafters(s.id, w.path), self.pricing.price)
            s.count(verified=w.verified, accepted=w.accepted, steps=1)
            reply = s.accept(w.tokens)
            s.fixed_deadline = None
            self.scheduler.clear(s)
            self.totals.accepted += w.accepted
            self._replies.append(reply)
            if reply.finish_reason:
                self.totals.finished += 1
                self._release(s, finished=True)
            else:
                self.session_policy.follow(s, list(reply.tokens), now)
                if s.local is not None:
                    s.local.commit(reply.tokens, now)
        self.draft_sessions.end_step(self.sequences.values(), now)

    def _account(self, plan: StepPlan, selected: Selected, choosing: int, kv_tokens: int, run_s: float, started: float, now: float) -> None:
        t, sequences = self.totals, len(plan.decoding)
        committed = sum(len(reply.tokens) for reply in self._replies)
        tokens = sequences + plan.prompt_tokens + selected.nodes
        t.steps += 1
        t.committed += committed
        t.verified += selected.nodes
        t.offered += selected.offered
        t.drafted = self.draft_sessions.events["drafted"]
        t.draft_messages = self.draft_sessions.messages
        self._trees += len(selected.trees)
        t.trees = self.draft_sessions.trees + self._trees
        t.prompt_tokens += plan.prompt_tokens
        t.predicted_tokens += choosing + selected.expected_tokens
        expected_s = self.latency.seconds(tokens, kv_tokens)
        t.predicted_seconds += expected_s
        self.pricing.observe_run(run_s, expected_s)
        t.run_seconds += run_s
        t.step_seconds += now - started
        busy = now - (self._busy_since if self._busy_since is not None else started)
        t.wait_seconds += max(0.0, busy - (now - started))
        self._busy_since = now
        self.latency.observe(tokens, kv_tokens, run_s)
        if not plan.prefilling:
            self.pricing.observe(committed, sequences, kv_tokens, busy, None if selected.nodes else now - started - run_s)
