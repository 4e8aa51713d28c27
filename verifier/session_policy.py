"""Which sequences have a draft session: the price gate, what each session brings, and the probes between.

Promises: with the gate closed no session of mode `auto` stays and none is opened but one probe at a
time; when it opens, sessions come back REOPENED_PER_STEP at a time, since each costs its drafter a prefill.
The modes that wait for trees of a set size always have theirs: they are baselines.
"""

from collections.abc import Iterable

from drafthouse.policy.node_pricing import NodePricing
from drafthouse.policy.speculation_gate import RETRY_RATE, ProbeBudget, SpeculationGate
from verifier.draft_sessions import DraftSessions
from verifier.sequence import Sequence

REOPENED_PER_STEP = 2


class SessionPolicy:
    def __init__(self, draft_sessions: DraftSessions, pricing: NodePricing):
        self.draft_sessions, self.pricing = draft_sessions, pricing
        self.gate, self.budget = SpeculationGate(), ProbeBudget()
        self._probing: Sequence | None = None
        self._left = REOPENED_PER_STEP
        self._step = 0

    def arrived(self, sequence: Sequence, now: float) -> None:
        """A new request: its session opens at once, so that both sides prefill together."""
        if sequence.speculates and (self.gate.open or not sequence.auto):
            self.draft_sessions.open(sequence, self._price_of(sequence), now)

    def begin_step(self, sequences: Iterable[Sequence], decoding: list[Sequence], now: float) -> None:
        """After the quote for this step, once a step."""
        self._step += 1
        self._left = REOPENED_PER_STEP
        self.gate.drafters(self.draft_sessions.able, now)
        was_open = self.gate.open
        self.gate.observe(self.pricing.quoted_price, now)
        if was_open and not self.gate.open:
            for s in sequences:
                if s.auto:
                    self.draft_sessions.park(s)
        self.budget.step(self._probing is not None)
        self._end_probe(now)
        if self._probing is None and self.budget.full:
            self._probe(decoding, now)

    def follow(self, s: Sequence, tokens: list[int], now: float) -> None:
        """After a step: tells the session what was committed, ends it if it does not pay, or opens one."""
        link = s.draft_session
        if link is None:
            if s.speculates and (not s.auto or self._may_reopen(s)) and self.draft_sessions.open(s, self._price_of(s), now):
                self._left -= s.auto
        elif s.auto and not link.probe and not link.worth.pays(self.pricing.value_of_a_second):
            s.parked_rate = self.pricing.value_of_a_second
            self.draft_sessions.park(s)
        else:
            self.draft_sessions.commit(s, tokens, self._price_of(s), now)

    def _may_reopen(self, s: Sequence) -> bool:
        return self.gate.open and not self._parked(s) and self._left > 0 and s.max_draft_depth > 0

    def _parked(self, s: Sequence) -> bool:
        return s.parked_rate is not None and self.pricing.value_of_a_second > RETRY_RATE * s.parked_rate

    def _price_of(self, s: Sequence) -> float:
        """A probe wants to see nodes below the price too, down to half of the best that was offered."""
        price = self.pricing.quoted_for(s.worth, self.draft_sessions.node_price(s))
        return min(price, 0.5 * self.gate.best_edge) if s.draft_session is not None and s.draft_session.probe else price

    def _probe(self, decoding: list[Sequence], now: float) -> None:
        """Of the sequences without a session, the one whose last probe is longest ago; those never probed come first."""
        waiting = [
            s for s in decoding if s.auto and s.draft_session is None and s.max_draft_depth > 0 and (self._parked(s) or not self.gate.open)
        ]
        if not waiting:
            return
        s = min(waiting, key=lambda s: s.probed_at_step)
        s.probed_at_step = self._step
        if self.draft_sessions.open(s, min(self.pricing.quoted_price, 0.5 * self.gate.best_edge), now, probe=True):
            self._probing = s

    def _end_probe(self, now: float) -> None:
        """Once nodes were seen, or when the budget is spent: keeps the session if they are worth their price."""
        s = self._probing
        if s is None:
            return
        if s.draft_session is None or not s.draft_session.probe:
            self._probing = None
        elif len(s.draft_session.tree) or self.budget.spent:
            self._probing = None
            best = self.pricing.relative(s.worth) * s.draft_session.trust * max(s.draft_session.confidences, default=0.0)
            self.gate.observe_edge(best)
            self.gate.observe(self.pricing.quoted_price, now)
            if self.gate.open and best > self.pricing.quoted_price:
                s.draft_session.probe, s.parked_rate = False, None
            else:
                self.draft_sessions.park(s)
