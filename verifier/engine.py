"""The verifier's engine: schedule -> run -> commit. No Ray, no network, no threads.

Promises: never waits by itself; `step` either runs or says until when drafts are worth waiting
for. Every submitted request gets exactly one reply with a finish_reason, unless it is cancelled.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from drafthouse.config import TreeConfig, VerifierConfig
from drafthouse.engine.kv_cache import KvSequence
from drafthouse.engine.loader import LoadedModel
from drafthouse.errors import RequestError
from drafthouse.messages import GenerateReply, GenerateRequest, ToVerifierMessage
from drafthouse.policy.goodput import GoodputMeter
from drafthouse.policy.latency import LatencyModel
from drafthouse.policy.selection import price, select
from drafthouse.policy.start_rule import Announcement, wait_until
from drafthouse.token_tree import TokenTree
from verifier import step as steps
from verifier.drafting import Drafting
from verifier.scheduler import Plan, Scheduler
from verifier.sequence import Sequence

FIXED_WAIT_S = 0.5
"""Modes `fixed` and `table` wait so long for its tree, then steps with what is there."""


@dataclass
class VerifyTotals:
    """Counters that only grow; seconds split a step into waiting, device work and the rest."""

    steps: int = 0
    committed: int = 0
    drafted: int = 0
    verified: int = 0
    accepted: int = 0
    prompt_tokens: int = 0
    finished: int = 0
    step_seconds: float = 0.0
    run_seconds: float = 0.0
    wait_seconds: float = 0.0


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
    ):
        self.runner, self.context, self.latency, self.clock = model.runner, model.context, latency, clock
        self.scheduler = Scheduler(config, self.runner.cache.allocator)
        self.drafting = Drafting(config, tree, self.runner.vocab_size, model.fingerprint)
        self.goodput = GoodputMeter(1.0 / latency.seconds(1, 0))
        self.price = price(1, 0, self.goodput.rate, latency)
        self.sequences: dict[str, Sequence] = {}
        self.totals = VerifyTotals()
        self._busy_since: float | None = None

    def submit(self, request: GenerateRequest) -> None:
        """Raises RequestError for what can never be served here, OverloadError when the queue is full."""
        longest = len(request.prompt) + request.max_tokens
        slots = self.runner.cache.allocator.count
        if longest > min(self.context, slots):
            raise RequestError(
                f"{len(request.prompt)} prompt tokens plus max_tokens {request.max_tokens} exceed "
                f"{'the context' if self.context <= slots else 'the KV cache'} of {min(self.context, slots)} tokens",
                "max_tokens", "context_length_exceeded",
            )  # fmt: skip
        if max(request.prompt + request.emitted) >= self.runner.vocab_size:
            raise RequestError(f"prompt holds a token id outside the vocabulary of {self.runner.vocab_size}", "prompt")
        older = self.sequences.get(request.request)
        if older is not None and older.request.attempt >= request.attempt:
            raise RequestError(f"request {request.request} is running already, attempt {older.request.attempt}", "request")
        if older is not None:
            self.cancel(older.id, older.request.attempt)
        seen = None
        if request.sampling.penalises:
            seen = torch.zeros(self.runner.vocab_size, dtype=torch.bool, device=self.runner.cache.data.device)
            seen[list(request.prompt + request.emitted)] = True
        sequence = Sequence(request, KvSequence(self.runner.cache), seen)
        self.scheduler.add(sequence)
        self.sequences[request.request] = sequence
        self.drafting.open(sequence, self.price, self.clock())

    def cancel(self, request_id: str, attempt: int) -> None:
        """Frees what this attempt holds; a later one that has superseded it is left alone."""
        sequence = self.sequences.get(request_id)
        if sequence is not None and sequence.request.attempt == attempt:
            del self.sequences[request_id]
            self.drafting.close(sequence)
            self.scheduler.remove(sequence)

    def receive(self, drafter: str, message: ToVerifierMessage) -> None:
        self.drafting.receive(drafter, self.sequences.get(message.session), message, self.clock())

    def fail_session(self, session: str, epoch: int, reason: str) -> None:
        """A message of this session could not be read."""
        sequence = self.sequences.get(session)
        if sequence is not None and sequence.link is not None and sequence.link.epoch == epoch:
            self.drafting.fail(sequence, reason, self.clock())

    def lose_drafter(self, drafter: str) -> None:
        self.drafting.lost(drafter, self.sequences.values())

    def fail_running(self, reason: str) -> list[GenerateReply]:
        """After a step that raised: ends every running request with an error reply."""
        replies = []
        for s in list(self.scheduler.running):
            replies.append(GenerateReply(s.id, s.request.attempt, s.output_len, (), "error", reason, s.usage))
            self.cancel(s.id, s.request.attempt)
        return replies

    def step(self, arrivals: Callable[[], None] = lambda: None) -> StepOutcome:
        """`arrivals` is called when the device is done and nothing is committed yet, to take in (by `receive`)
        what drafters sent meanwhile: those nodes are still numbered below the old root and re-root with it."""
        now = self.clock()
        plan = self.scheduler.plan()
        if not plan.decoding and not plan.prefilling:
            self._busy_since = None
            return StepOutcome(idle=True)
        self.drafting.decoding = len(plan.decoding)
        until = self._wait(plan, now)
        if until is not None:
            return StepOutcome(wait_until=until)
        trees = self._select(plan)
        entries = steps.build(plan, trees)
        result = self.runner.run([entry.segment for entry in entries])
        walked = steps.walk(entries, result.logits)
        arrivals()
        return StepOutcome(self._commit(plan, walked, result.seconds, now))

    def _wait(self, plan: Plan, now: float) -> float | None:
        """Until when to wait for drafts, or None to start. Prompt chunks never wait."""
        if plan.prefilling:
            return None
        announcements: list[Announcement] = []
        for s in plan.decoding:
            if s.link is None or s.link.exhausted:
                continue
            if s.request.speculation.waits:
                s.fixed_deadline = s.fixed_deadline or now + FIXED_WAIT_S
                if len(s.link.tree) < self.drafting.wanted(s.request.speculation) and now < s.fixed_deadline:
                    return s.fixed_deadline
            elif s.link.announcement is not None:
                a = s.link.announcement
                announcements.append(Announcement(a.made, a.due, a.tokens * self.drafting.believed(s)))
        return wait_until(now, announcements, self.goodput.rate)

    def _select(self, plan: Plan) -> dict[str, TokenTree]:
        """The nodes that this step verifies, by request."""
        trees: dict[str, TokenTree] = {}
        pool: list[tuple[Sequence, int]] = []
        confidences: list[float] = []
        free = self.runner.cache.allocator.free_count - len(plan.decoding) - plan.prompt_tokens
        limit = min(free, self.scheduler.config.step_tokens - len(plan.decoding) - plan.prompt_tokens)
        for s in plan.decoding:
            if s.link is None or not len(s.link.tree):
                continue
            room = s.request.max_tokens - s.output_len - 1
            tree = self._within(s.link.tree, room)
            if s.request.speculation.waits:
                nodes = tree.best_first(min(self.drafting.wanted(s.request.speculation), max(0, limit)))
                limit -= len(nodes)
                trees[s.id] = tree.subtree(nodes)
            else:
                pool += [(s, node) for node in range(len(tree))]
                believed = self.drafting.believed(s)
                confidences += [believed * confidence for confidence in tree.path_confidences()]
        kv_tokens = sum(len(s.kv) for s in plan.decoding)
        base = len(plan.decoding) + sum(len(t) for t in trees.values())
        picked = select(confidences, base, plan.prompt_tokens, kv_tokens, self.goodput.rate, self.latency, limit)
        chosen: dict[str, list[int]] = {}
        for i in picked:
            chosen.setdefault(pool[i][0].id, []).append(pool[i][1])
        for s in plan.decoding:
            if s.id in chosen and s.link is not None:
                trees[s.id] = s.link.tree.subtree(sorted(chosen[s.id]))
        return trees

    def _within(self, tree: TokenTree, depth: int) -> TokenTree:
        """The tree without nodes that lie deeper than the request may still go; the first nodes keep their indices."""
        depths = tree.depths()
        if not depths or max(depths) <= depth:
            return tree
        edges = [edge if d <= depth else 0.0 for edge, d in zip(tree.edges, depths, strict=True)]
        return TokenTree(tree.tokens, tree.parents, edges, tree.sources)

    def _commit(self, plan: Plan, walked: list[steps.Walked], run_seconds: float, started: float) -> list[GenerateReply]:
        now = self.clock()
        replies, committed, verified = [], 0, 0
        for w in walked:
            if w.verified and w.sequence.link is not None:
                self.drafting.honesty[w.sequence.link.drafter].observe(w.promised, w.accepted)
            w.sequence.count(verified=w.verified, accepted=w.accepted, steps=1)
            reply = w.sequence.accept(w.tokens)
            w.sequence.fixed_deadline = None
            committed += len(reply.tokens)
            verified += w.verified
            self.totals.accepted += w.accepted
            replies.append(reply)
            if reply.finish_reason:
                self.totals.finished += 1
                self.cancel(w.sequence.id, w.sequence.request.attempt)
            else:
                self._follow(w.sequence, list(reply.tokens), now)
        tokens = len(plan.decoding) + plan.prompt_tokens + verified
        kv_tokens = sum(len(s.kv) for s in plan.decoding)
        self._account(plan, committed, verified, tokens, kv_tokens, run_seconds, started, now)
        return replies

    def _follow(self, sequence: Sequence, tokens: list[int], now: float) -> None:
        """Keeps the draft session in step, or looks for a drafter if there is none."""
        if sequence.link is None:
            self.drafting.open(sequence, self.price, now)
        else:
            self.drafting.commit(sequence, tokens, self.price, now)

    def _account(
        self, plan: Plan, committed: int, verified: int, tokens: int, kv_tokens: int, run_seconds: float, started: float, now: float
    ) -> None:
        t = self.totals
        t.steps += 1
        t.committed += committed
        t.verified += verified
        t.drafted = self.drafting.events["drafted"]
        t.prompt_tokens += plan.prompt_tokens
        t.run_seconds += run_seconds
        t.step_seconds += now - started
        busy = now - (self._busy_since if self._busy_since is not None else started)
        t.wait_seconds += max(0.0, busy - (now - started))
        self._busy_since = now
        self.latency.observe(tokens, kv_tokens, run_seconds)
        if not plan.prefilling:
            self.goodput.observe(committed, busy)
        self.price = price(tokens - verified, kv_tokens, self.goodput.rate, self.latency)
