"""What replicas tell the controller of supply and demand of drafts, and what it makes of that: `controller/draft_market.py` on reports.

Promises: nothing is known here that a replica did not report, at its last heartbeat; one round of heartbeats brings all of it back.
"""

from collections.abc import Sequence
from statistics import fmean

from controller.draft_market import Demand, Supply, clear
from drafthouse.policy.draft_seats import SeatOffer
from simulator.drafter import SimDrafter
from simulator.options import Options
from simulator.verifier import SimVerifier

FIRST_ACCEPTANCE = 0.7
"""Assumed of a verifier that has had no drafts yet."""

PROMPT_TOKENS = 256
"""Tokens of the chunk that tells what a prompt token takes."""


class Market:
    """The last reports, and the offers of the last round."""

    def __init__(self, options: Options):
        self._options = options
        self._demands: dict[str, Demand] = {}
        self._supplies: dict[str, Supply] = {}
        self._acceptance: dict[str, dict[str, float]] = {}  # by drafter, by verifier
        self._passes: dict[str, tuple[int, float]] = {}  # by drafter: passes and their seconds at its last report
        self._pairs: dict[str, tuple[str, ...]] = {}
        self._offers: dict[str, list[SeatOffer]] = {}
        self._due = 0.0

    def hear_verifier(self, v: SimVerifier, drafters: Sequence[SimDrafter]) -> None:
        engine, config = v.engine, self._options.config.verifier
        wanting = [s for s in engine.sequences.values() if s.auto and (s.parked_rate is None or s.draft_session is not None)]
        known = [mine[v.name] for mine in self._acceptance.values() if v.name in mine]
        self._demands[v.name] = Demand(
            v.name, engine.pricing.plain_step_s, fmean(known) if known else FIRST_ACCEPTANCE,
            tuple(s.worth for s in wanting) if engine.session_policy.gate.open else (),
            max(0, config.max_sequences - len(wanting)),
            fmean([s.prompt_len for s in wanting]) if wanting else 0.0,
            fmean([s.request.max_tokens for s in wanting]) if wanting else 1.0,
            {d.name: d.round_trip_s for d in drafters},
        )  # fmt: skip
        self._pairs[v.name] = tuple(engine.draft_sessions.drafters)

    def hear_drafter(self, d: SimDrafter) -> None:
        pass_s, overhead_s = d.latency.seconds(1, 0), self._options.overheads.pass_s
        chunk_s = d.latency.seconds(PROMPT_TOKENS, 0)
        passes, seconds = self._passes.get(d.name, (0, 0.0))
        self._passes[d.name] = d.totals.passes, d.totals.pass_seconds
        done = d.totals.passes - passes
        self._supplies[d.name] = Supply(
            d.name, pass_s + overhead_s, d.latency.seconds(2, 0) - pass_s, chunk_s / PROMPT_TOKENS,
            self._options.config.drafter.max_sessions, len(d.sessions), (d.totals.pass_seconds - seconds) / done if done else 0.0,
        )  # fmt: skip
        expected: dict[str, list[float]] = {}
        for (verifier, _), session in d.sessions.items():
            expected.setdefault(verifier.name, []).append(session.expected_children)
        self._acceptance[d.name] = {name: fmean(values) for name, values in expected.items()}

    def offers_for(self, verifier: str, now: float, interval_s: float) -> list[SeatOffer]:
        """Weighed again once in an interval."""
        if now >= self._due:
            self._offers, self._due = clear(list(self._demands.values()), self._supplies.values(), self._pairs), now + interval_s
        return self._offers.get(verifier, [])
