"""Who is alive: what the replicas report, kept until they fall silent, and what each is to know of the others.

Promises: pure, `now` (seconds, monotonic) comes in; everything but the totals of departed replicas
can be rebuilt from one round of heartbeats; totals never go back while this registry lives. Gateways
get all verifiers that are not draining, each verifier its paired drafters.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, get_args

from controller.pairing import Peer, pair
from drafthouse.config import ControllerConfig
from drafthouse.membership import Directive, Report, Role, Route

ROLES: tuple[Role, ...] = get_args(Role)

FAST_REPLICAS = 20
"""Up to here everyone reports every `heartbeat_s`."""

MAX_HEARTBEATS_PER_S = 200.0
"""A Serve replica answers several times as many calls on one core."""

MAX_DEPARTED = 1000
"""Departed replicas kept by name, in case they were only slow; older ones are kept as a sum."""

Key = tuple[Role, str, int]


@dataclass(slots=True)
class _Entry:
    report: Report
    seen: float
    expires: float


class Registry:
    def __init__(self, config: ControllerConfig) -> None:
        self._config = config
        self._live: dict[Key, _Entry] = {}
        self._departed: dict[Key, dict[str, float]] = {}
        self._departed_sums: dict[Role, dict[str, float]] = {role: {} for role in ROLES}
        self._pairs: dict[str, tuple[str, ...]] = {}
        self._paired: tuple[tuple[Peer, ...], tuple[Peer, ...]] = ((), ())

    @property
    def interval_s(self) -> float:
        """When replicas are to report next: longer in large pools, so that the controller's load is bounded."""
        base, replicas = self._config.heartbeat_s, len(self._live)
        return base if replicas <= FAST_REPLICAS else max(base, replicas / MAX_HEARTBEATS_PER_S)

    def observe(self, report: Report, now: float) -> None:
        """A replica that restarted under its old name (another pid) replaces its former self."""
        key = (report.role, report.replica, report.pid)
        self._departed.pop(key, None)
        self._live[key] = _Entry(report, now, now + self.interval_s * self._config.expire_heartbeats)
        for former in [other for other in self._live if other[:2] == key[:2] and other != key]:
            self._depart(former)
        self._expire(now)

    def directive_for(self, report: Report, now: float) -> Directive:
        """The answer to this report, once observed."""
        self._expire(now)
        match report.role:
            case "gateway":
                return Directive(self.interval_s, verifiers=tuple(map(_route, self._ready("verifier"))))
            case "verifier":
                self._pair()
                drafters = {drafter.replica: drafter for drafter in self._ready("drafter")}
                mine = self._pairs.get(report.replica, ())
                return Directive(self.interval_s, drafters=tuple(_route(drafters[name]) for name in mine))
            case "drafter":
                return Directive(self.interval_s)

    def snapshot(self, now: float) -> dict[str, Any]:
        """The cluster's state as JSON. `totals` are sums by role, departed replicas included."""
        self._expire(now)
        self._pair()
        pools: dict[str, list[dict[str, Any]]] = {role: [] for role in ROLES}
        for entry in sorted(self._live.values(), key=lambda entry: entry.report.replica):
            pools[entry.report.role].append(_described(entry, now))
        return {
            "pools": pools,
            "sessions": sum(entry.report.load for entry in self._live.values() if entry.report.role == "drafter"),
            "totals": {role: self._totals(role) for role in ROLES},
            "pairs": [{"verifier": verifier, "drafters": list(drafters)} for verifier, drafters in sorted(self._pairs.items())],
            "interval_s": self.interval_s,
        }

    def _expire(self, now: float) -> None:
        for key in [key for key, entry in self._live.items() if entry.expires < now]:
            self._depart(key)

    def _depart(self, key: Key) -> None:
        self._departed[key] = _finite(self._live.pop(key).report.totals)
        while len(self._departed) > MAX_DEPARTED:
            oldest = next(iter(self._departed))
            _add(self._departed_sums[oldest[0]], self._departed.pop(oldest))

    def _totals(self, role: Role) -> dict[str, float]:
        sums = dict(self._departed_sums[role])
        for totals in (totals for key, totals in self._departed.items() if key[0] == role):
            _add(sums, totals)
        for report in (entry.report for key, entry in self._live.items() if key[0] == role):
            _add(sums, _finite(report.totals))
        return sums

    def _ready(self, role: Role) -> list[Report]:
        """By name, so that equal states give equal directives."""
        reports = (entry.report for entry in self._live.values())
        return sorted((r for r in reports if r.role == role and not r.draining), key=lambda report: report.replica)

    def _pair(self) -> None:
        """Only when a replica came, went or began to drain: it costs a hash for each verifier and drafter."""
        verifiers = tuple(Peer(e.report.replica, _vocab(e.report)) for e in self._live.values() if e.report.role == "verifier")
        peers = tuple(sorted(verifiers, key=lambda peer: peer.replica)), tuple(Peer(r.replica, _vocab(r)) for r in self._ready("drafter"))
        if peers != self._paired:
            self._paired = peers
            self._pairs = pair(*peers)


def _route(report: Report) -> Route:
    return Route(report.replica, report.address, report.fingerprint, report.load, report.capacity)


def _vocab(report: Report) -> int:
    return int(report.gauges.get("vocab_size", 0))


def _described(entry: _Entry, now: float) -> dict[str, Any]:
    fields = asdict(entry.report)
    fields |= {"totals": _finite(entry.report.totals), "gauges": _finite(entry.report.gauges)}
    return {**fields, "age_s": round(max(now - entry.seen, 0.0), 3)}


def _add(sums: dict[str, float], numbers: dict[str, float]) -> None:
    for name, value in numbers.items():
        sums[name] = sums.get(name, 0) + value


def _finite(numbers: dict[str, float]) -> dict[str, float]:
    """JSON has no infinity and no NaN."""
    return {name: value for name, value in numbers.items() if math.isfinite(value)}
