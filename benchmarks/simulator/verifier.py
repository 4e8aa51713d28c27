"""One verifier replica: `verifier/engine.py` and `verifier/step_loop.py` with the trace in the target's place.

Promises: when a step starts, what it verifies and what it asks of drafters come from
`drafthouse/policy`, the code that serves; only how tokens, KV and messages are counted is restated.
"""

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import simpy

from benchmarks.simulator.drafting import SimDrafting
from benchmarks.simulator.options import Options
from benchmarks.simulator.sequence import Request, Sequence
from benchmarks.simulator.wire import ToVerifier, after
from drafthouse.policy.goodput import GoodputMeter
from drafthouse.policy.latency import ScaledCurve
from drafthouse.policy.selection import price, select
from drafthouse.policy.start_rule import Announcement, wait_until
from verifier.engine import FIXED_WAIT_S


@dataclass
class VerifyTotals:
    """Counters that only grow; `run_seconds` are the device's, `wait_seconds` those in which drafts were waited for."""

    steps: int = 0
    sequence_steps: int = 0
    committed: int = 0
    verified: int = 0
    accepted: int = 0
    prompt_tokens: int = 0
    finished: int = 0
    refused: int = 0
    run_seconds: float = 0.0
    step_seconds: float = 0.0
    wait_seconds: float = 0.0
    price_seconds: float = 0.0  # price x seconds of steps


@dataclass(slots=True)
class Plan:
    decoding: list[Sequence] = field(default_factory=list)
    prefilling: list[tuple[Sequence, int]] = field(default_factory=list)
    prompt_tokens: int = 0


class SimVerifier:
    def __init__(self, name: str, env: simpy.Environment, options: Options, finished: Callable[[Request], None]):
        self.name, self.env, self.options, self._finished = name, env, options, finished
        self.config = options.config.verifier
        self.latency = ScaledCurve(options.target, options.time_scale)
        self.goodput = GoodputMeter(1.0 / self.latency.seconds(1, 0))
        self.price = price(1, 0, self.goodput.rate, self.latency)
        self.price_floor = 0.0
        self.drafting = SimDrafting(self, env, options)
        self.totals = VerifyTotals()
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self._reserved = 0  # KV slots of the running sequences, all their output included
        self._slots = options.config.target.kv_tokens
        self._inbox: list[list[ToVerifier]] = []
        self._busy_since: float | None = None
        self._wake: simpy.Event | None = None
        env.process(self._run())

    @property
    def load(self) -> int:
        return len(self.waiting) + len(self.running)

    @property
    def asked_price(self) -> float:
        return max(self.price, self.price_floor)

    def submit(self, request: Request) -> None:
        places = max(0, self.config.max_sequences - len(self.running))
        if len(self.waiting) >= self.config.max_queue + places:
            self.totals.refused += 1
            self._finished(request)
            return
        sequence = Sequence(request)
        self.waiting.append(sequence)
        self.drafting.open(sequence, self.asked_price, self.env.now)
        self._awake()

    def receive(self, messages: list[ToVerifier]) -> None:
        self._inbox.append(messages)
        self._awake()

    def _awake(self) -> None:
        if self._wake is not None:
            wake, self._wake = self._wake, None
            wake.succeed()

    def _asleep(self, until: float | None) -> simpy.Event:
        """Until something arrives, or the time has come."""
        self._wake = wake = self.env.event()
        if until is not None:
            after(self.env, max(0.0, until - self.env.now), lambda: self._awake() if self._wake is wake else None)
        return wake

    def _run(self) -> Generator[simpy.Event, Any, None]:
        while True:
            self._take_arrivals()
            self.drafting.flush()
            plan = self._plan()
            if not plan.decoding and not plan.prefilling:
                self._busy_since = None
                yield self._asleep(None)
                continue
            until = self._wait(plan)
            if until is not None:
                yield self._asleep(until)
                continue
            started = self.env.now
            chosen, verified = self._select(plan)
            overheads = self.options.overheads
            kv_tokens = sum([s.cached for s in plan.decoding]) + sum([s.cached for s, _ in plan.prefilling])
            tokens = len(plan.decoding) + plan.prompt_tokens + verified
            run_seconds = self.latency.seconds(tokens, kv_tokens + tokens)
            yield self.env.timeout(run_seconds + overheads.step_s + overheads.sequence_s * len(plan.decoding))
            self._take_arrivals()
            self._commit(plan, chosen, verified, run_seconds, started)

    def _take_arrivals(self) -> None:
        if self._inbox:
            batches, self._inbox = self._inbox, []
            for messages in batches:
                self.drafting.receive(messages, self.env.now)

    def _plan(self) -> Plan:
        while self.waiting and len(self.running) < self.config.max_sequences:
            text = self.waiting[0].request.text
            wanted = text.prompt_tokens + text.output_tokens
            if self.running and self._reserved + wanted > self._slots:
                break
            self._reserved += wanted
            self.running.append(self.waiting.popleft())
        plan = Plan([s for s in self.running if s.pending == 1])
        budget = self.config.step_tokens - len(plan.decoding)
        if len(plan.decoding) < len(self.running):
            for s in self.running:
                if s.pending > 1 and (count := min(s.pending, budget)) > 0:
                    plan.prefilling.append((s, count))
                    budget -= count
                    plan.prompt_tokens += count
        self.drafting.decoding = max(1, len(plan.decoding))
        return plan

    def _wait(self, plan: Plan) -> float | None:
        """Until when to wait for drafts, or None to start. Prompt chunks never wait."""
        if plan.prefilling:
            return None
        now, announcements = self.env.now, []
        waits, wanted = self.options.speculation.waits, self.drafting.wanted
        for s in plan.decoding:
            link = s.link
            if link is None or link.exhausted:
                continue
            if waits:
                s.fixed_deadline = s.fixed_deadline or now + FIXED_WAIT_S
                if len(link.alive) < wanted and now < s.fixed_deadline:
                    return s.fixed_deadline
            elif (a := link.announcement) is not None:
                announcements.append(Announcement(a.made, a.due, a.tokens * self.drafting.believed(link)))
        return wait_until(now, announcements, self.goodput.rate) if announcements else None

    def _select(self, plan: Plan) -> tuple[dict[Sequence, tuple[int, int, float]], int]:
        """By sequence: nodes to verify, how many of them the target will accept, and what they promise; and nodes in all."""
        limit = self.config.step_tokens - len(plan.decoding) - plan.prompt_tokens
        owners: list[Sequence] = []
        nodes: list[int] = []
        counts: list[int] = []
        for s in plan.decoding:
            if s.link is None or not s.link.alive:
                continue
            last = s.request.text.output_tokens - 2  # the bonus token needs a place too
            positions = s.link.tree.positions
            mine = [i for i in s.link.alive if positions[i] <= last]
            owners.append(s)
            counts.append(len(mine))
            nodes += mine
        if not nodes or limit <= 0:
            return {}, 0
        if self.options.speculation.waits:
            return self._chosen_fixed(owners, nodes, counts, limit)
        return self._chosen(plan, owners, nodes, counts, limit)

    def _chosen(
        self, plan: Plan, owners: list[Sequence], nodes: list[int], counts: list[int], limit: int
    ) -> tuple[dict[Sequence, tuple[int, int, float]], int]:
        logs: list[float] = []
        believed: list[float] = []
        first = 0
        for s, count in zip(owners, counts, strict=True):
            assert s.link is not None
            tree, base = s.link.tree, s.link.tree.root_log(s.link.root)
            logs += [tree.log_confidences[i] - base for i in nodes[first : first + count]]
            believed.append(self.drafting.believed(s.link))
            first += count
        owner = np.repeat(np.arange(len(owners)), counts)
        own = np.exp(np.array(logs))
        kv_tokens = sum([s.cached for s in plan.decoding])
        picked = select(
            own * np.array(believed)[owner], len(plan.decoding), plan.prompt_tokens, kv_tokens, self.goodput.rate, self.latency, limit
        )
        chosen: dict[Sequence, tuple[int, int, float]] = {}
        for i, who in zip(picked, owner[picked].tolist(), strict=True):
            s = owners[who]
            assert s.link is not None
            count, accepted, promised = chosen.get(s, (0, 0, 0.0))
            chosen[s] = count + 1, accepted + s.link.tree.on_path(nodes[i]), promised + own[i]
        return chosen, len(picked)

    def _chosen_fixed(
        self, owners: list[Sequence], nodes: list[int], counts: list[int], limit: int
    ) -> tuple[dict[Sequence, tuple[int, int, float]], int]:
        chosen: dict[Sequence, tuple[int, int, float]] = {}
        first = total = 0
        for s, count in zip(owners, counts, strict=True):
            assert s.link is not None
            tree, mine = s.link.tree, nodes[first : first + count]
            confidences = tree.confidences(mine, s.link.root)
            best = sorted(range(count), key=lambda i: -confidences[i])[: min(self.drafting.wanted, limit - total)]
            chosen[s] = len(best), sum(tree.on_path(mine[i]) for i in best), sum(confidences[i] for i in best)
            first += count
            total += len(best)
        return chosen, total

    def _commit(
        self, plan: Plan, chosen: dict[Sequence, tuple[int, int, float]], verified: int, run_seconds: float, started: float
    ) -> None:
        now, committed, all_accepted = self.env.now, 0, 0
        walked = list(plan.decoding)
        for s, count in plan.prefilling:
            s.cached += count
            if s.pending == 0:
                walked.append(s)
        for s in plan.decoding:
            s.cached += 1
        for s in walked:
            count, accepted, promised = chosen.get(s, (0, 0, 0.0))
            if count and s.link is not None:
                self.drafting.honesty[s.link.drafter].observe(promised, accepted)
            all_accepted += accepted
            s.cached += accepted
            committed += self._accept(s, accepted + 1, now)
        self._account(plan, committed, all_accepted, verified, run_seconds, started)

    def _accept(self, s: Sequence, tokens: int, now: float) -> int:
        s.fixed_deadline = None
        s.request.steps += 1
        if s.output == 0:
            s.request.first_token_s = now
        s.output += tokens
        assert s.left >= 0
        if s.left == 0:
            self.running.remove(s)
            self._reserved -= s.request.text.prompt_tokens + s.request.text.output_tokens
            self.drafting.close(s)
            self.totals.finished += 1
            s.request.finished_s = now
            self._finished(s.request)
        elif s.link is None:
            self.drafting.open(s, self.asked_price, now)
        else:
            self.drafting.commit(s, self.asked_price, now)
        return tokens

    def _account(self, plan: Plan, committed: int, accepted: int, verified: int, run_seconds: float, started: float) -> None:
        t, now = self.totals, self.env.now
        busy = now - (self._busy_since if self._busy_since is not None else started)
        self._busy_since = now
        t.steps += 1
        t.sequence_steps += len(plan.decoding)
        t.committed += committed
        t.verified += verified
        t.accepted += accepted
        t.prompt_tokens += plan.prompt_tokens
        t.run_seconds += run_seconds
        t.step_seconds += now - started
        t.wait_seconds += max(0.0, busy - (now - started))
        t.price_seconds += self.price * busy
        if not plan.prefilling:
            self.goodput.observe(committed, busy)
        kv_tokens = sum([s.cached for s in plan.decoding])
        self.price = price(len(plan.decoding) + plan.prompt_tokens, kv_tokens, self.goodput.rate, self.latency)
