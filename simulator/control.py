"""The controller: the registry that serves, behind a queue that one report at a time passes through.

Promises: replicas report when their last directive told them to; pairs and routes are the registry's.
"""

import random
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import simpy

from controller.registry import Registry
from drafthouse.policy.draft_seats import DraftSeats
from drafthouse.policy.selection import price
from drafthouse.policy.verifier_routes import VerifierRoutes
from drafthouse.wire.membership import Directive
from drafthouse.wire.reports import DrafterReport, GatewayReport, Replica, Report, VerifierReport
from drafthouse.wire.totals import DrafterTotals, GatewayTotals, StageCounts
from simulator.drafter import SimDrafter
from simulator.gateway import Gateways, fingerprint
from simulator.market import Market
from simulator.mix import DIRECTIVES, EQUAL, SERVED, SPLIT
from simulator.options import Options
from simulator.verifier import SimVerifier
from verifier.report import report_of

Follow = Callable[[Directive], None]


class Control:
    """`heartbeats` and `busy_seconds` are what the controller has done since the start."""

    def __init__(self, env: simpy.Environment, options: Options, rng: random.Random):
        self.env, self.options, self._rng = env, options, rng
        self.registry = Registry(options.config.controller)
        self.market = Market(options) if options.mix.policy in (DIRECTIVES, EQUAL) else None
        self.heartbeats = 0
        self.busy_seconds = 0.0
        self._desk = simpy.Resource(env, capacity=1)

    def start(self, gateways: Gateways, verifiers: Sequence[SimVerifier], drafters: Sequence[SimDrafter]) -> None:
        """All report once before the first request comes; then each in its own time."""
        by_name = {d.name: d for d in drafters}
        members: list[tuple[Callable[[], Report], Follow]] = []
        for v in verifiers:
            members.append((partial(self._verifier_report, v, drafters), partial(self._follow, v, by_name)))
        for d in drafters:
            members.append((partial(self._drafter_report, d), lambda _: None))
        for i, routes in enumerate(gateways.routes):
            capacity = self.options.config.gateway.max_ongoing_requests
            report = GatewayReport(replica=_replica(f"gateway-{i}"), load=0, capacity=capacity, totals=GatewayTotals())
            members.append((partial(replace, report), partial(_route, routes)))
        for make_report, _ in members:
            self.registry.observe(make_report(), self.env.now)
        for make_report, follow in members:
            follow(self.registry.directive_for(make_report(), self.env.now))
            self.env.process(self._beat(make_report, follow))

    def _follow(self, verifier: SimVerifier, drafters: dict[str, SimDrafter], directive: Directive) -> None:
        sessions, mix = verifier.draft_sessions, self.options.mix
        names = [route.replica for route in directive.drafters]
        verifier.peers = drafters
        if mix.policy == SPLIT:
            names = self._split_off(verifier.target, sorted(drafters))
        sessions.set_drafters(names)
        if self.market is not None:
            sessions.seats = sessions.seats or DraftSeats[str]()
            sessions.seats.replace(self.market.offers_for(verifier.name, self.env.now, self.registry.interval_s))
        if mix.policy == SERVED:
            verifier.engine.pricing.set_price_floor(directive.price_floor)

    def _verifier_report(self, v: SimVerifier, drafters: Sequence[SimDrafter]) -> VerifierReport:
        if self.market is not None:
            self.market.hear_verifier(v, drafters)
        return _verifier_report(v)

    def _drafter_report(self, d: SimDrafter) -> DrafterReport:
        if self.market is not None:
            self.market.hear_drafter(d)
        return _drafter_report(d)

    def _split_off(self, target: int, drafters: Sequence[str]) -> list[str]:
        """The drafters that a fixed split leaves to this target, of each kind alike."""
        targets, kinds = max(1, len(self.options.mix.targets)), max(1, len(self.options.mix.drafters))
        return [name for i, name in enumerate(drafters) if i // kinds % targets == target]

    def _beat(self, make_report: Callable[[], Report], follow: Follow) -> Generator[simpy.Event, Any, None]:
        interval_s = self.registry.interval_s * self._rng.random()
        while True:
            yield self.env.timeout(interval_s)
            yield self.env.timeout(self.options.round_trip_s / 2)
            report = make_report()
            with self._desk.request() as turn:
                yield turn
                yield self.env.timeout(self.options.overheads.heartbeat_s)
            self.heartbeats += 1
            self.busy_seconds += self.options.overheads.heartbeat_s
            self.registry.observe(report, self.env.now)
            directive = self.registry.directive_for(report, self.env.now)
            yield self.env.timeout(self.options.round_trip_s / 2)
            follow(directive)
            interval_s = directive.interval_s


def _route(routes: VerifierRoutes, directive: Directive) -> None:
    routes.replace(directive.verifiers)


def _replica(name: str, mark: str = "simulated") -> Replica:
    return Replica(name, name, 0, "", mark)


def _verifier_report(v: SimVerifier) -> VerifierReport:
    round_trips: dict[str, float | None] = {name: v.peers[name].round_trip_s for name in v.engine.draft_sessions.drafters}
    return report_of(v.engine, _replica(v.name, fingerprint(v.target)), draining=False, step_faults=0, round_trips=round_trips)


def _drafter_report(d: SimDrafter) -> DrafterReport:
    totals = DrafterTotals(
        draft=replace(d.totals), stages=StageCounts(), calibration_labels=0, malformed=0, pass_faults=0,
        busy_seconds=d.totals.pass_seconds, paced=None,
    )  # fmt: skip
    return DrafterReport(
        replica=_replica(d.name), load=len(d.sessions), capacity=d.options.config.drafter.max_sessions, totals=totals,
        pass_ms=1e3 * d.latency.seconds(1, 0), seconds_per_node=price(1, 0, 1.0, d.latency), kv_slots_used=0, kv_slots_cached=0,
        kv_slots=0,
    )  # fmt: skip
