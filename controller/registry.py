"""Who is alive: what the replicas report, kept until they fall silent, and what each is to know of the others.

Promises: pure, `now` (seconds, monotonic) comes in; everything but the totals of departed replicas and rates
can be rebuilt from one round of heartbeats; totals never go back while this registry lives. Gateways
get all verifiers that are not draining, each verifier its paired drafters and the price floor. Until a silent replica would be
taken out, a new registry does not know of all, and says so; one that was itself held up holds it against nobody.
"""

import math
from typing import Any

from controller.cluster_goodput import ClusterGoodput, measure
from controller.fingerprints import Groups, groups_of
from controller.gateway_size import GatewayLoad, load_of
from controller.live_pool import LivePool
from controller.price_floor import PriceFloor, supply
from controller.routing_table import RoutingTable
from drafthouse.config.serving import ControllerConfig
from drafthouse.policy.client_shares import ClientShares
from drafthouse.wire.membership import Directive, Role
from drafthouse.wire.reports import DrafterReport, GatewayReport, Report, VerifierReport

FAST_REPLICAS = 20
"""Up to here everyone reports every `heartbeat_s`, and pairs are renewed at once."""

MAX_HEARTBEATS_PER_S = 200.0
"""A Serve replica answers several times as many calls on one core."""


def interval(replicas: int, heartbeat_s: float) -> float:
    """Seconds between two reports of one replica: longer in large pools, so that the controller's load is bounded."""
    return heartbeat_s if replicas <= FAST_REPLICAS else max(heartbeat_s, replicas / MAX_HEARTBEATS_PER_S)


class Registry:
    def __init__(self, config: ControllerConfig) -> None:
        self._config = config
        self._gateways, self._verifiers, self._drafters = LivePool[GatewayReport](), LivePool[VerifierReport](), LivePool[DrafterReport]()
        self.pools: dict[Role, LivePool[Any]] = {"gateway": self._gateways, "verifier": self._verifiers, "drafter": self._drafters}
        self._earliest_expiry = math.inf  # nobody expires before it
        self._began = self._heard = -math.inf  # the first and the last report of anyone
        self._table = RoutingTable()
        self._floor = PriceFloor()
        self._clients = ClientShares()

    def reconfigure(self, config: ControllerConfig) -> None:
        self._config = config

    def __len__(self) -> int:
        """Replicas that report."""
        return sum(map(len, self.pools.values()))

    @property
    def interval_s(self) -> float:
        """When replicas are to report next."""
        return interval(len(self), self._config.heartbeat_s)

    @property
    def _settle_s(self) -> float:
        return 0.0 if len(self) <= FAST_REPLICAS else self.interval_s

    def observe(self, report: Report, now: float) -> None:
        """A replica that restarted under its old name (another pid) replaces its former self."""
        self._allow_for_silence(now)
        expires = now + self.interval_s * self._config.expire_heartbeats
        match report:
            case GatewayReport():
                self._gateways.observe(report, now, expires)
                self._clients.observe(report.replica.name, report.clients)
            case VerifierReport():
                self._floor.resume(report.price_floor if math.isfinite(report.price_floor) else 0.0)
                self._verifiers.observe(report, now, expires)
            case DrafterReport():
                self._drafters.observe(report, now, expires)
        self._earliest_expiry = min(self._earliest_expiry, expires)
        self._table.put(report)
        self._expire(now)
        if self._floor.due(now):
            found = supply(self._verifiers.members(latest=True), self._drafters.members(latest=True))
            self._floor.move(found, now, self.interval_s)

    def fingerprints(self) -> dict[Role, Groups]:
        """Which replicas of a pool can replace each other."""
        return {"verifier": groups_of(self._verifiers.reports()), "drafter": groups_of(self._drafters.reports())}

    def _allow_for_silence(self, now: float) -> None:
        """Where nobody was heard for two intervals, it was this controller that could not hear."""
        if self._began == -math.inf:
            self._began = self._heard = now
        silence, self._heard = now - self._heard, now
        if silence > 2 * self.interval_s:
            for pool in self.pools.values():
                pool.allow(silence)
            self._earliest_expiry += silence

    def goodput(self) -> ClusterGoodput:
        return measure(self._verifiers.members(), self._drafters.members(), self._floor.floor)

    def gateway_load(self) -> GatewayLoad:
        return load_of(self._gateways.reports())

    def sizes(self) -> dict[str, int]:
        """Replicas by role that report and do not drain."""
        return {role: pool.taking() for role, pool in self.pools.items()}

    def directive_for(self, report: Report, now: float) -> Directive:
        """The answer to this report, once observed."""
        self._expire(now)
        complete = now > self._began + self.interval_s * self._config.expire_heartbeats
        match report:
            case GatewayReport():
                # Before all have reported it is not known what they hold, so nothing is shared out: the last shares stay.
                shares = self._clients.answer(report.replica.name) if complete else {}
                return Directive(
                    self.interval_s, verifiers=self._table.verifiers(), complete=complete, gateways=len(self._gateways), shares=shares
                )
            case VerifierReport():
                drafters = self._table.drafters_of(report.replica.name, now, self._settle_s)
                return Directive(self.interval_s, drafters=drafters, price_floor=self._floor.floor, complete=complete)
            case DrafterReport():
                return Directive(self.interval_s)

    def snapshot(self, now: float) -> dict[str, Any]:
        """The cluster's state as JSON. `totals` are sums by role, departed replicas included."""
        self._expire(now)
        pairs = self._table.pairs(now, self._settle_s)
        return {
            "pools": {role: pool.as_json(now) for role, pool in self.pools.items()},
            "sessions": self.sessions,
            "totals": {role: pool.totals() for role, pool in self.pools.items()},
            "pairs": [{"verifier": verifier, "drafters": list(drafters)} for verifier, drafters in sorted(pairs.items())],
            "fingerprints": self.fingerprints(),
            "goodput": self.goodput().as_json(),
            "interval_s": self.interval_s,
        }

    @property
    def sessions(self) -> int:
        """Draft sessions in the cluster."""
        return sum(report.load for report in self._drafters.reports())

    def _expire(self, now: float) -> None:
        if now <= self._earliest_expiry:
            return
        for role, pool in self.pools.items():
            for name in pool.expire(now):
                self._table.remove(role, name)
                self._clients.remove(name)
        self._earliest_expiry = min(pool.next_expiry for pool in self.pools.values())
