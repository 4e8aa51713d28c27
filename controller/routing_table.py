"""Who is told of whom: routes of the replicas that take new work, and each verifier's drafters.

Promises: a report costs the same in pools of any size; a gateway's table costs one look for each verifier. Order is by
name, so that equal states give equal tables. Pairs are renewed when a replica came, went or began
to drain: at once, or after `settle_s` since the last time, so that a large pool that starts does not pair anew for each replica.
"""

import math

from controller.pairing import Peer, pair
from drafthouse.wire.membership import Role, Route
from drafthouse.wire.reports import DrafterReport, GatewayReport, Report, VerifierReport


class RoutingTable:
    def __init__(self) -> None:
        self._routes: dict[Role, dict[str, Route]] = {"verifier": {}, "drafter": {}}
        self._peers: dict[Role, dict[str, Peer]] = {"verifier": {}, "drafter": {}}
        self._verifiers: list[str] | None = None  # names with a route, sorted; None: not known
        self._pairs: dict[str, tuple[str, ...]] = {}
        self._stale = False
        self._paired_at = -math.inf

    def put(self, report: Report) -> None:
        """A replica reports; gateways need no route. Draining verifiers keep their drafters, and nobody is sent to them."""
        if isinstance(report, GatewayReport):
            return
        who, routes, peers = report.replica, self._routes[report.role], self._peers[report.role]
        name = who.name
        if report.draining:
            self._remove(report.role, name)
        else:
            if report.role == "verifier" and name not in routes:
                self._verifiers = None
            routes[name] = _route(report)
        if report.role == "verifier" or not report.draining:
            peer = Peer(name, who.vocabulary)
            self._stale |= peers.get(name) != peer
            peers[name] = peer
        elif peers.pop(name, None) is not None:
            self._stale = True

    def remove(self, role: Role, name: str) -> None:
        """A replica is gone."""
        if role != "gateway":
            self._remove(role, name)
            self._stale |= self._peers[role].pop(name, None) is not None

    def _remove(self, role: Role, name: str) -> None:
        if self._routes[role].pop(name, None) is not None and role == "verifier":
            self._verifiers = None

    def verifiers(self) -> tuple[Route, ...]:
        if self._verifiers is None:
            self._verifiers = sorted(self._routes["verifier"])
        return tuple(map(self._routes["verifier"].__getitem__, self._verifiers))

    def drafters_of(self, verifier: str, now: float, settle_s: float) -> tuple[Route, ...]:
        """Those that are left of its pairs."""
        mine, routes = self.pairs(now, settle_s).get(verifier, ()), self._routes["drafter"]
        return tuple(routes[name] for name in mine if name in routes)

    def pairs(self, now: float, settle_s: float) -> dict[str, tuple[str, ...]]:
        """Drafters' names by verifier."""
        if self._stale and now >= self._paired_at + settle_s:
            verifiers, drafters = (sorted(self._peers[role].values(), key=lambda peer: peer.replica) for role in ("verifier", "drafter"))
            self._pairs, self._stale, self._paired_at = pair(verifiers, drafters), False, now
        return self._pairs


def _route(report: VerifierReport | DrafterReport) -> Route:
    who = report.replica
    if isinstance(report, DrafterReport):
        return Route(who.name, who.address, who.fingerprint, report.load, report.capacity)
    return Route(
        who.name, who.address, who.fingerprint, report.load, report.capacity, report.caches_prefixes, report.max_sequences,
        held_up=report.held_up, kv_slots_free=report.kv_slots - report.kv_slots_used, step_seconds=report.step_seconds_running,
        step_seconds_least=report.step_seconds_least, prompt_token_seconds=report.prompt_token_seconds,
    )  # fmt: skip
