"""Who is alive: what the replicas report, kept until they fall silent, and what each is to know of the others.

Promises: pure, `now` (seconds, monotonic) comes in; everything but the totals of departed replicas and rates
can be rebuilt from one round of heartbeats; totals never go back while this registry lives. Gateways
get all verifiers that are not draining, each verifier its paired drafters and the price floor. Until a silent replica would be
taken out, a new registry does not know of all, and says so; one that was itself held up holds it against nobody.
"""

import math
from dataclasses import asdict, dataclass, field
from typing import Any, get_args

from controller.cluster_goodput import ClusterGoodput, Member, measure
from controller.price_floor import PriceFloor, supply
from controller.replica_rates import ReplicaRates, finite
from controller.routing_table import RoutingTable
from drafthouse.config.serving import ControllerConfig
from drafthouse.wire.membership import Directive, Report, Role

ROLES: tuple[Role, ...] = get_args(Role)

FAST_REPLICAS = 20
"""Up to here everyone reports every `heartbeat_s`, and pairs are renewed at once."""

MAX_HEARTBEATS_PER_S = 200.0
"""A Serve replica answers several times as many calls on one core."""

MAX_DEPARTED = 1000
"""Departed replicas kept by name, in case they were only slow; older ones are kept as a sum."""

Key = tuple[Role, str, int]


def interval(replicas: int, heartbeat_s: float) -> float:
    """Seconds between two reports of one replica: longer in large pools, so that the controller's load is bounded."""
    return heartbeat_s if replicas <= FAST_REPLICAS else max(heartbeat_s, replicas / MAX_HEARTBEATS_PER_S)


@dataclass(slots=True)
class _Entry:
    report: Report
    seen: float
    expires: float
    rates: ReplicaRates = field(default_factory=ReplicaRates)


class Registry:
    def __init__(self, config: ControllerConfig) -> None:
        self._config = config
        self._live: dict[Key, _Entry] = {}
        self._keys: dict[tuple[Role, str], Key] = {}
        self._earliest_expiry = math.inf  # nobody expires before it
        self._began = self._heard = -math.inf  # the first and the last report of anyone
        self._departed: dict[Key, dict[str, float]] = {}
        self._departed_sums: dict[Role, dict[str, float]] = {role: {} for role in ROLES}
        self._table = RoutingTable()
        self._floor = PriceFloor()

    @property
    def interval_s(self) -> float:
        """When replicas are to report next."""
        return interval(len(self._live), self._config.heartbeat_s)

    @property
    def _settle_s(self) -> float:
        return 0.0 if len(self._live) <= FAST_REPLICAS else self.interval_s

    def observe(self, report: Report, now: float) -> None:
        """A replica that restarted under its old name (another pid) replaces its former self."""
        self._allow_for_silence(now)
        key = (report.role, report.replica, report.pid)
        former = self._keys.get(key[:2])
        if former is not None and former != key:
            self._depart(former)
        self._keys[key[:2]] = key
        self._departed.pop(key, None)
        if report.role == "verifier":
            self._floor.resume(finite(report.gauges).get("price_floor", 0.0))
        expires = now + self.interval_s * self._config.expire_heartbeats
        entry = self._live.setdefault(key, _Entry(report, now, expires))
        entry.report, entry.seen, entry.expires = report, now, expires
        entry.rates.observe(finite(report.totals), now)
        self._earliest_expiry = min(self._earliest_expiry, expires)
        self._table.put(report)
        self._expire(now)
        if self._floor.due(now):
            self._floor.move(supply(self._members("verifier", latest=True), self._members("drafter", latest=True)), now, self.interval_s)

    def reports(self) -> list[Report]:
        """The last one of each live replica."""
        return [entry.report for entry in self._live.values()]

    def _allow_for_silence(self, now: float) -> None:
        """Where nobody was heard for two intervals, it was this controller that could not hear."""
        if self._began == -math.inf:
            self._began = self._heard = now
        silence, self._heard = now - self._heard, now
        if silence > 2 * self.interval_s:
            for entry in self._live.values():
                entry.expires += silence
            self._earliest_expiry += silence

    def goodput(self) -> ClusterGoodput:
        return measure(self._members("verifier"), self._members("drafter"), self._floor.floor)

    def _members(self, role: Role, latest: bool = False) -> list[Member]:
        entries = (entry for entry in self._live.values() if entry.report.role == role)
        return [Member.of(e.report, e.rates.latest() if latest else e.rates.over_window()) for e in entries]

    def sizes(self) -> dict[str, int]:
        """Replicas by role that report and do not drain."""
        return {role: sum(e.report.role == role and not e.report.draining for e in self._live.values()) for role in ROLES}

    def directive_for(self, report: Report, now: float) -> Directive:
        """The answer to this report, once observed."""
        self._expire(now)
        complete = now > self._began + self.interval_s * self._config.expire_heartbeats
        match report.role:
            case "gateway":
                return Directive(self.interval_s, verifiers=self._table.verifiers(), complete=complete)
            case "verifier":
                drafters = self._table.drafters_of(report.replica, now, self._settle_s)
                return Directive(self.interval_s, drafters=drafters, price_floor=self._floor.floor, complete=complete)
            case "drafter":
                return Directive(self.interval_s)

    def snapshot(self, now: float) -> dict[str, Any]:
        """The cluster's state as JSON. `totals` are sums by role, departed replicas included."""
        self._expire(now)
        pairs = self._table.pairs(now, self._settle_s)
        pools: dict[str, list[dict[str, Any]]] = {role: [] for role in ROLES}
        for entry in sorted(self._live.values(), key=lambda entry: entry.report.replica):
            pools[entry.report.role].append(_described(entry, now))
        return {
            "pools": pools,
            "sessions": sum(entry.report.load for entry in self._live.values() if entry.report.role == "drafter"),
            "totals": {role: self._totals(role) for role in ROLES},
            "pairs": [{"verifier": verifier, "drafters": list(drafters)} for verifier, drafters in sorted(pairs.items())],
            "goodput": self.goodput().as_json(),
            "interval_s": self.interval_s,
        }

    def _expire(self, now: float) -> None:
        if now <= self._earliest_expiry:
            return
        for key in [key for key, entry in self._live.items() if entry.expires < now]:
            self._depart(key)
        self._earliest_expiry = min((entry.expires for entry in self._live.values()), default=math.inf)

    def _depart(self, key: Key) -> None:
        self._departed[key] = finite(self._live.pop(key).report.totals)
        del self._keys[key[:2]]
        self._table.remove(*key[:2])
        while len(self._departed) > MAX_DEPARTED:
            oldest = next(iter(self._departed))
            _add(self._departed_sums[oldest[0]], self._departed.pop(oldest))

    def _totals(self, role: Role) -> dict[str, float]:
        sums = dict(self._departed_sums[role])
        for totals in (totals for key, totals in self._departed.items() if key[0] == role):
            _add(sums, totals)
        for report in (entry.report for key, entry in self._live.items() if key[0] == role):
            _add(sums, finite(report.totals))
        return sums


def _described(entry: _Entry, now: float) -> dict[str, Any]:
    fields = asdict(entry.report)
    fields |= {"totals": finite(entry.report.totals), "gauges": finite(entry.report.gauges)}
    return {**fields, "age_s": round(max(now - entry.seen, 0.0), 3)}


def _add(sums: dict[str, float], numbers: dict[str, float]) -> None:
    for name, value in numbers.items():
        sums[name] = sums.get(name, 0) + value
