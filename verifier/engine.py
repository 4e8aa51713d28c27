"""The verifier's engine: `begin_step` plans, waits and selects; `finish_step` chooses, walks and commits. Between them the device runs.

Promises: knows no Ray, no network and no threads, and never waits by itself: `begin_step` says until when drafts are worth waiting
for. Every submitted request gets exactly one reply with a finish_reason, unless it is cancelled.
"""

import time
from collections.abc import Callable, Mapping
from collections.abc import Sequence as TypingSequence
from dataclasses import replace

from drafthouse.config.serving import TreeConfig, VerifierConfig
from drafthouse.engine.kv_cache import KvSequence
from drafthouse.engine.loader import LoadedModel
from drafthouse.engine.model_runner import RunResult, check_device
from drafthouse.errors import ConfigError, RequestError
from drafthouse.grammars.compiler import GrammarCompiler
from drafthouse.grammars.matcher import GrammarMatcher
from drafthouse.policy.latency import LatencyModel
from drafthouse.policy.node_pricing import NodePricing
from drafthouse.policy.start_rule import GAIN_SHARE, WHOLE_GAIN, wait_until, worth_a_look
from drafthouse.processors.grammar import GrammarProcessor
from drafthouse.stages.build import StageMaker
from drafthouse.telemetry.spans import Spans
from drafthouse.wire.generation_messages import GenerateReply, GenerateRequest
from drafthouse.wire.session_messages import ToVerifierMessage
from drafthouse.wire.step_trace import StepTrace
from verifier.admission import Admission, check_fits
from verifier.draft_sessions import DraftSessions
from verifier.local_draft import STEP_S, LocalDrafts
from verifier.node_selection import choose_nodes
from verifier.scheduler import Scheduler, StepPlan
from verifier.scoring import score
from verifier.sequence import Sequence, TraceCount, processors_for
from verifier.sequence_span import begun
from verifier.session_policy import SessionPolicy
from verifier.step import Step, Wait, Walks
from verifier.step_metering import StepFacts, StepMeter
from verifier.step_tracing import StepMoment, drafted_trees, note_step, step_traces
from verifier.token_worths import TokenWorths
from verifier.tree_waits import TreeWaits
from verifier.verification import Verification


class VerifierEngine:
    def __init__(
        self,
        model: LoadedModel,
        latency: LatencyModel,
        config: VerifierConfig,
        tree: TreeConfig,
        clock: Callable[[], float] = time.perf_counter,
        stages: TypingSequence[StageMaker] = (),
        draft_sessions: type[DraftSessions] = DraftSessions,
        verification: type[Verification] = Verification,
        spans: Spans | None = None,
    ):
        """`stages` are those that run in this process; `draft_sessions` and `verification` make what holds drafts and accepts them. With
        `spans`, requests whose gateways have spans have some here. Raises ConfigError for a model that knows only some tokens."""
        if model.head_ids is not None:
            raise ConfigError("target.path: a distilled draft, not a target: its head knows only some tokens; give the model it drafts for")
        self.runner, self.context, self.latency, self.clock, self.spans = model.runner, model.context, latency, clock, spans
        self.grammars = GrammarCompiler(model.tokenizer)
        self.meter = StepMeter(clock)
        self.totals = self.meter.totals
        self.scheduler = Scheduler(config, self.runner.cache.allocator)
        self.draft_sessions = draft_sessions(config, tree, model, self.totals)
        self.local = LocalDrafts(stages, tree, self.runner.vocab_size, clock)
        self.pricing = NodePricing(latency)
        self.worths = TokenWorths(self.pricing, self.totals)
        self.session_policy = SessionPolicy(self.draft_sessions, self.pricing)
        self.tree_waits = TreeWaits(self.draft_sessions)
        self.verification = verification(config.synthetic_acceptance.rate if config.synthetic_acceptance is not None else None)
        self.sequences: dict[str, Sequence] = {}
        self.admission = Admission(self.scheduler, self.totals)
        self._gain_share = GAIN_SHARE if tree.grow_during_verification else WHOLE_GAIN
        self._stepping: list[Sequence] = []  # sequences of the step in progress
        self._replies: list[GenerateReply] = []  # of the step in progress: said even if the rest of it fails

    def reconfigure(self, config: VerifierConfig, tree: TreeConfig) -> None:
        """From now on these hold, as far as they are live (`drafthouse.config.live`). Sessions that are open keep their trees' limits."""
        self.scheduler.config = config
        self.draft_sessions.batch_table, self.draft_sessions.tree = config.batch_table, tree
        self.local.tree = tree

    def submit(self, request: GenerateRequest, matcher: GrammarMatcher | None = None) -> None:
        """`matcher` is that of its grammar, at the beginning; without one it is made here, which takes milliseconds.

        Raises RequestError for what can never be served here, OverloadError when the queue is full."""
        older = self.sequences.get(request.request_id)
        if older is not None and older.request.attempt >= request.attempt:
            raise RequestError(f"request {request.request_id} is running already, attempt {older.request.attempt}", "request")
        if older is not None:
            self.totals.superseded += 1
            self._release(older, "superseded")
        check_fits(request, self.context, self.runner.cache.allocator.count, self.runner.vocab_size)
        self.admission.take_place(resumed=request.resumed or bool(request.delivered), now=self.clock())
        kv, synthetic = KvSequence(self.runner.cache, request.cache_key), self.verification.synthetic_rate is not None
        grammar = self._grammar(request, matcher)
        sequence = Sequence(request, kv, processors_for(request, self.runner.vocab_size, grammar), synthetic)
        sequence.arrived, sequence.local = self.clock(), self.local.open(request, grammar)
        sequence.trace = TraceCount(sequence.arrived) if request.trace else None
        if self.spans is not None:
            sequence.span = begun(self.spans, request, sequence.arrived)
        self.enter(sequence)

    def _grammar(self, request: GenerateRequest, matcher: GrammarMatcher | None) -> GrammarProcessor | None:
        if (grammar := request.sampling.grammar) is None:
            return None
        matcher = matcher or self.grammars.matcher(grammar)
        return GrammarProcessor(matcher, grammar.thought, request.stop_tokens, request.delivered, self.runner.vocab_size)

    def enter(self, sequence: Sequence) -> None:
        """Queues a sequence that has been admitted."""
        now = self.clock()
        self.worths.add(sequence, now, self.scheduler.config.step_tokens)
        self.scheduler.add(sequence)
        self.sequences[sequence.id] = sequence
        self.session_policy.arrived(sequence, now)

    def cancel(self, request_id: str, attempt: int, heard_at_step: int | None = None) -> None:
        """Frees what this attempt holds; a later one that has superseded it is left alone. `heard_at_step`: see `Admission`."""
        sequence = self.sequences.get(request_id)
        if sequence is not None and sequence.request.attempt == attempt:
            self.admission.cancelled(sequence, heard_at_step)
            self._release(sequence, "cancelled")

    def give_back(self, count: int, wanted: Callable[[Sequence], bool]) -> list[GenerateReply]:
        """Ends the first `count` of those that wait and are wanted, in fair order; their last replies."""
        returned = self.scheduler.give_back(count, wanted)
        for s in returned:
            self.totals.returned += 1
            self._release(s, "returned")
        return [GenerateReply(s.id, s.request.attempt, s.output_len, (), "returned", "", s.usage) for s in returned]

    def _release(self, sequence: Sequence, how: str, error: str = "") -> None:
        """Its KV slots, its draft session and its place in the queue. `how` it has ended, for its span; "stop" and "length" are ends of its
        own."""
        finished = how in ("stop", "length")
        if sequence.span is not None:
            sequence.span.end(self.clock(), how, sequence.usage, sequence.output_len, error)
        del self.sequences[sequence.id]
        self.draft_sessions.close(sequence, finished)
        if sequence.local is not None:
            sequence.local.close(finished)
        self.worths.remove(sequence)
        self.scheduler.remove(sequence)

    def receive(self, drafter: str, message: ToVerifierMessage, arrived: float | None = None) -> None:
        """A drafter's message. `arrived`: when it came, on the engine's clock, if that was not now: what comes during a run is taken in
        after it."""
        self.draft_sessions.receive(drafter, self.sequences.get(message.session_id), message, self.clock() if arrived is None else arrived)

    def fail_session(self, session: str, epoch: int, reason: str) -> None:
        """A message of this session could not be read: the session ends, unless it has ended already. "": it was of a kind that is not
        known here."""
        self.draft_sessions.events.unknown += not session
        sequence = self.sequences.get(session)
        if sequence is not None and sequence.draft_session is not None and sequence.draft_session.epoch == epoch:
            self.draft_sessions.fail(sequence, reason, self.clock())

    def lose_drafter(self, drafter: str) -> None:
        """Its stream is gone."""
        self.draft_sessions.lost(drafter, self.sequences.values())

    def recover(self, reason: str) -> list[GenerateReply]:
        """After a step that raised: sequences that ran together are tried one by one, and one that fails alone ends with an error reply.
        The replies begin with those of tokens that were committed before the step raised.

        Raises what the device raises if it fails without a request, too (`check_device`).
        """
        replies, self._replies = self._replies, []
        if not self.scheduler.suspects:
            self.scheduler.suspect()
        s = self._stepping[0]
        if len(self._stepping) > 1 or self.sequences.get(s.id) is not s:
            return replies
        self.totals.failed += 1
        s.kv.release()  # what it holds may be spoilt: not for others
        self._release(s, "error", reason)
        self.scheduler.allocator.forget_prefixes()  # of earlier chunks
        check_device(self.runner)
        return [*replies, GenerateReply(s.id, s.request.attempt, s.output_len, (), "error", reason, s.usage)]

    def begin_step(self) -> Step | Wait | None:
        """What the device is to run now, or until when to wait for drafts; None when there is nothing to do."""
        now = self.meter.start()
        plan = self._plan(now)
        if not plan.sequences:
            self.meter.idle()
            return None
        late = self._late(plan, now)
        others = self._without(plan, late)
        if (until := self._wait(others, late, now)) is not None:
            self.meter.wait()
            return Wait(until)
        self.tree_waits.begun()
        step = self._select(others, now)
        self.meter.ready(step)
        return step

    def finish_step(self, step: Step, result: RunResult) -> list[GenerateReply]:
        """After the device has run `step.segments`: the replies to gateways. First call `receive` with all that drafters have sent during
        the run: their nodes lie below the old roots, and the commit re-roots them."""
        choices = self.verification.choose(step, result.logits)
        walks = self.verification.walk(step, choices)
        score(step, walks, result.logits)
        if step.batch.states.count:
            with self.meter.keeping_states():
                step.batch.states.keep(walks.walked, result.states)
        now = self.meter.chose()
        moment = StepMoment(self.meter.started, now, result.seconds, self.pricing.price)
        if self.spans is not None:
            note_step(step, walks, moment)
        self._commit(step, walks, now, step_traces(step, walks, choices, moment))
        committed = sum(len(reply.tokens) for reply in self._replies)
        self._learn(self.meter.finish(step, walks, committed, result.seconds))
        return self._replies

    def _plan(self, now: float) -> StepPlan:
        """Who could take part, and what a second and a node are worth to them."""
        if not self.worths.even:
            self.worths.begin_step(now, self.scheduler.config.step_tokens)
        plan = self.scheduler.plan()
        self.admission.begin_step(now)
        if not plan.sequences:
            self.pricing.quote(1, 0, 0)  # as if one sequence decoded: the next request opens its session at this price
            self.pricing.weigh(())
            return plan
        self._stepping, self._replies = plan.sequences, []
        self.draft_sessions.decoding = len(plan.decoding)
        self.pricing.quote(len(plan.decoding), plan.prompt_tokens, plan.kv_tokens)
        self.pricing.weigh(self.worths.of(plan.decoding))
        return plan

    def _late(self, plan: StepPlan, now: float) -> list[Sequence]:
        """Who may be left out, waiting for a tree. Steps with prompt chunks or first tokens take all along, and no other runs before a
        suspect has."""
        return [] if self.scheduler.suspects or plan.begins else self.tree_waits.late(plan, now)

    def _without(self, plan: StepPlan, late: list[Sequence]) -> StepPlan:
        """The step that begins now if it does not wait for `late`; prices are for that one, if there is one."""
        if not late:
            return plan
        others = plan.without(late)
        if others.sequences:
            self._stepping = others.sequences
            self.pricing.quote(len(others.decoding), others.prompt_tokens, others.kv_tokens)
            self.pricing.weigh(self.worths.of(others.decoding))
        return others

    def _wait(self, plan: StepPlan, late: list[Sequence], now: float) -> float | None:
        """Until when to wait for drafts, or None to start `plan`. Prompt chunks and first tokens never wait."""
        if late and (until := self.tree_waits.until(plan, late, now, self.pricing.plain_s)) is not None:
            return until
        if plan.begins:
            return None
        value, share = self.pricing.value_of_a_second, self._gain_share
        drafting = [(s, s.draft_session) for s in plan.decoding if s.auto and s.draft_session is not None]
        if self.pricing.even:
            said = [session.announcement for _, session in drafting if session.announcement is not None]
            if not worth_a_look(now, said, value, share):  # even if all of it comes true
                return None
        announcements = [
            expected.times(self.pricing.relative(s.worth))
            for s, session in drafting
            if (expected := session.expected(s.max_draft_depth)) is not None
        ]
        return wait_until(now, announcements, value, share)

    def _select(self, plan: StepPlan, now: float) -> Step:
        """Which sessions go on, and which nodes of their trees are verified. Takes the KV slots of the step."""
        self.session_policy.begin_step(self.sequences.values(), plan.decoding, now)
        self._draft_here(plan)
        selected = choose_nodes(plan, self.pricing, self.draft_sessions.wanted, self.scheduler.node_limit(plan))
        if selected.best_edge is not None:
            self.session_policy.gate.observe_edge(selected.best_edge)
        self.draft_sessions.hold(plan.decoding)
        expected_s = self.latency.seconds(len(plan.decoding) + plan.prompt_tokens + selected.nodes, plan.kv_tokens)
        drafted = drafted_trees(plan, selected)
        return Step(plan, selected, self.verification.prepare(plan, selected), expected_s, drafted)

    def _draft_here(self, plan: StepPlan) -> None:
        """Lets the stages in this process add their nodes."""
        until = self.local.totals.stage_seconds + STEP_S
        for s in plan.decoding:
            if s.local is not None and self.local.totals.stage_seconds < until:
                s.count(drafted=s.local.grow(self.pricing.price_for(s.worth), s.max_draft_depth))

    def _commit(self, step: Step, walks: Walks, now: float, traces: Mapping[str, StepTrace]) -> None:
        """Tokens to the gateways' replies, with their `traces` by sequence, and to what drafts: drafters, the session policy, and stages
        in this process. Prompt chunks to the prefix cache."""
        for s, _ in step.plan.prefilling:
            s.kv.share(s.tokens)
        self._replies += [s.score(logprobs) for s, logprobs in walks.scored]
        for place, w in enumerate(walks.walked):
            s = w.sequence
            if s.draft_session is not None:
                promised, nodes = step.selected.drafters(place)
                s.draft_session.verified(promised, w.of_drafter, nodes, self.pricing.price_for(s.worth))
            s.count(verified=w.verified, accepted=w.accepted, steps=1, predicted=w.predicted, predicted_accepted=w.predicted_accepted)
            before = s.forced
            reply = s.accept(w.tokens, w.stopped, w.logprobs)
            self.totals.forced += s.forced - before
            s.tree_deadline = None
            self.scheduler.clear(s)
            if not self.worths.even:
                self.worths.committed(s, reply, now)
            if s.id in traces and reply.tokens:
                reply = replace(reply, trace=traces[s.id].cut(len(reply.tokens)))
            self._replies.append(reply)
            if reply.finish_reason:
                failed = reply.finish_reason in ("error", "refused")
                self.totals.failed += failed
                self.totals.finished += not failed
                self._release(s, reply.finish_reason, reply.error)
            else:
                self.session_policy.follow(s, list(reply.tokens), now)
                if s.local is not None:
                    s.local.commit(reply.tokens, now)
        self.draft_sessions.end_step(self.sequences.values(), now)

    def _learn(self, facts: StepFacts) -> None:
        """What the step says of the latency model, and of what a second is worth."""
        self.pricing.observe_run(facts.run_s, facts.expected_s)
        self.latency.observe(facts.tokens, facts.kv_tokens, facts.run_s)
        if not facts.prompt_tokens:
            overhead_s = None if facts.nodes else facts.step_s - facts.run_s
            self.pricing.observe(facts.committed, facts.sequences, facts.kv_tokens, facts.busy_s, overhead_s)
