"""The whole simulated cluster: pools, arrivals, controller, and what became of them."""

import random
from collections.abc import Generator, Sequence
from dataclasses import dataclass, fields
from statistics import fmean
from typing import Any, TypeVar

import numpy as np
import simpy

from drafthouse.errors import ConfigError
from drafthouse.policy.token_worth import weight
from drafthouse.wire.totals import DraftTotals, VerifyTotals
from simulator.acceptance import Acceptance
from simulator.control import Control
from simulator.drafter import SimDrafter
from simulator.gateway import Gateways
from simulator.options import Options
from simulator.request import Request
from simulator.trace import TraceRequest
from simulator.verifier import SimVerifier

WATCH_S = 0.05
"""Between two looks at who has the drafters' sessions."""

FOLLOWED = 0.9

Totals = TypeVar("Totals", VerifyTotals, DraftTotals)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Latencies are seconds, over requests served; rates and shares are over the `span_s` simulated seconds.

    A utilisation is busy seconds per replica second. `between_steps_share` is the share of the verifiers' busy time that lay
    between steps. `price` is tokens per node, weighted by the time of the steps. `weighted_goodput_per_s`: output tokens of requests
    that were served within their objective, or had none, by priority; `kept_share` of the objectives due were kept; `follow_s`: after a
    shift of the load between targets, until the drafters' sessions have followed it, 0 where it never shifts.
    """

    span_s: float
    requests: int
    served: int
    refused: int
    mean_latency_s: float
    p99_latency_s: float
    ttft_s: float
    goodput_tokens_per_s: float
    goodput_per_verifier: float
    tokens_per_step: float
    nodes_per_step: float
    sequences_per_step: float
    accepted_share: float
    verifier_utilisation: float
    drafter_utilisation: float
    controller_utilisation: float
    between_steps_share: float
    price: float
    price_floor: float
    heartbeats_per_s: float
    weighted_goodput_per_s: float
    kept_share: float
    follow_s: float
    nodes_per_pass: float


class Cluster:
    """One simulation; `run` may be called once."""

    def __init__(self, options: Options, arrivals: Sequence[Request], rng: random.Random):
        self.options, self.arrivals = options, arrivals
        self.env = simpy.Environment()
        self.gateways = Gateways(self.env, options, arrivals)
        finished = self.gateways.finished
        self.verifiers = [
            SimVerifier(f"verifier-{i:03d}", self.env, options, finished, options.target_of(i)) for i in range(options.verifiers)
        ]
        self.drafters = [SimDrafter(f"drafter-{i:03d}", self.env, options, rng, options.drafter_kind(i)) for i in range(options.drafters)]
        self.control = Control(self.env, options, rng)
        self.control.start(self.gateways, self.verifiers, self.drafters)
        self.gateways.start(self.verifiers)
        self.shares: list[tuple[float, float]] = []  # time, and the first target's share of the drafters' sessions
        if options.shift_s:
            self.env.process(self._watch())

    def _watch(self) -> Generator[simpy.Event, Any, None]:
        while True:
            yield self.env.timeout(WATCH_S)
            sessions = [verifier.target for d in self.drafters for verifier, _ in d.sessions]
            self.shares.append((self.env.now, sessions.count(0) / len(sessions) if sessions else 0.0))

    def run(self) -> Outcome:
        if self.options.drain:
            self.env.run(until=self.gateways.over)
        else:
            assert self.options.seconds is not None
            self.env.run(until=self.options.seconds)
        return self._outcome()

    def _outcome(self) -> Outcome:
        served = [r for r in self.arrivals if r.finished_s is not None]
        if not served:
            raise ConfigError(f"--seconds: no request was served in the {self.env.now:.3g} s simulated; make it longer")
        overhead = self.options.overheads.gateway_s + self.options.round_trip_s / 2
        latencies = np.array([r.finished_s - r.arrival_s + overhead for r in served if r.finished_s is not None])
        first_token = np.array([r.first_token_s - r.arrival_s + overhead for r in served])
        engines = [v.engine for v in self.verifiers]
        totals = summed([e.totals for e in engines])
        sequence_steps = sum(v.sequence_steps for v in self.verifiers)
        passes = summed([x.totals for x in self.drafters]) if self.drafters else DraftTotals()
        span, verifiers, drafters = self.env.now, len(self.verifiers), len(self.drafters)
        busy = totals.step_seconds + totals.wait_seconds
        return Outcome(
            span_s=span, requests=len(self.arrivals), served=len(served), refused=sum(v.refused for v in self.verifiers),
            mean_latency_s=float(latencies.mean()), p99_latency_s=float(np.quantile(latencies, 0.99)), ttft_s=float(first_token.mean()),
            goodput_tokens_per_s=totals.committed / span, goodput_per_verifier=totals.committed / span / verifiers,
            tokens_per_step=totals.committed / max(1, sequence_steps), nodes_per_step=totals.verified / max(1, sequence_steps),
            sequences_per_step=sequence_steps / max(1, totals.steps), accepted_share=totals.accepted / max(1, totals.verified),
            verifier_utilisation=totals.step_seconds / span / verifiers,
            drafter_utilisation=passes.pass_seconds / span / drafters if drafters else 0.0,
            controller_utilisation=self.control.busy_seconds / span, between_steps_share=totals.wait_seconds / busy,
            price=sum(v.price_seconds for v in self.verifiers) / totals.step_seconds,
            price_floor=sum(e.pricing.price_floor for e in engines) / verifiers,
            heartbeats_per_s=self.control.heartbeats / span,
            weighted_goodput_per_s=sum(weight(r.kind.priority) * r.text.output_tokens for r in served if r.kept()) / span,
            kept_share=kept_share(self.arrivals, span), follow_s=follow_seconds(self.shares, self.options.shift_s),
            nodes_per_pass=sum(x.pass_tokens for x in self.drafters) / max(1, passes.passes),
        )  # fmt: skip


def kept_share(requests: Sequence[Request], now: float) -> float:
    """Of the objectives that were to be kept by `now`; 1 where there are none."""
    due = [r for r in requests if r.due_s() <= now]
    return sum(r.kept() for r in due) / len(due) if due else 1.0


def follow_seconds(shares: Sequence[tuple[float, float]], shift_s: float) -> float:
    """From the shift of the load until nine tenths of what the share changes by have come about; 0 where nothing shifts.

    It changes from the mean of the second half before the shift to that of the last third of the time.
    """
    if not shift_s or not shares:
        return 0.0
    before = [share for now, share in shares if shift_s / 2 < now <= shift_s]
    since = [(now, share) for now, share in shares if now > shift_s]
    if not before or not since:
        return 0.0
    first, last = fmean(before), fmean(share for _, share in since[-max(1, len(since) // 3) :])
    come = (now - shift_s for now, share in since if (share - first) * (last - first) >= FOLLOWED * (last - first) ** 2)
    return next(come, since[-1][0] - shift_s)


def summed(totals: Sequence[Totals]) -> Totals:
    """Of one replica at least."""
    return type(totals[0])(**{f.name: sum(getattr(t, f.name) for t in totals) for f in fields(totals[0])})


def simulate(options: Options, trace: Sequence[TraceRequest]) -> Outcome:
    """Raises ConfigError naming the option or the trace's field."""
    options.check()
    rng = random.Random(options.seed)
    acceptance = Acceptance(trace, options.workload, rng)
    return Cluster(options, arrivals(options, acceptance), rng).run()


def arrivals(options: Options, acceptance: Acceptance) -> list[Request]:
    """The trace's own, or a Poisson process of texts drawn from it."""
    if options.rate is None:
        first = acceptance.requests[0].arrival_s
        return [Request(str(i), acceptance.text(i), r.arrival_s - first) for i, r in enumerate(acceptance.requests)]
    gaps, mix, draws = np.random.default_rng(options.seed), options.mix, random.Random(options.seed + 1)
    now, made = 0.0, list[Request]()
    while (options.requests is None or len(made) < options.requests) and (options.seconds is None or now < options.seconds):
        text = acceptance.any_text() if mix.output_tokens is None else acceptance.text_of(draws.randint(*mix.output_tokens))
        place = now / options.seconds if options.seconds is not None else len(made) / (options.requests or 1)
        made.append(Request(str(len(made)), text, now, mix.target_at(place, draws.random()), mix.kind_at(draws.random())))
        now += float(gaps.exponential(1.0 / options.rate))
    return made
