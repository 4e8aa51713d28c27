"""One role's replicas that report, until they fall silent, and the sums of what they and their predecessors have counted.

Promises: sums never go back while this pool lives. Pure: `now` (seconds, monotonic) comes in.
"""

import math
from dataclasses import dataclass
from typing import Any, Generic

from controller.pool_rates import Member
from controller.replica_rates import ReplicaRates
from drafthouse.telemetry.report_numbers import as_json, totals_of
from drafthouse.wire.reports import AnyReport

MAX_DEPARTED = 1000
"""Departed replicas kept by name, in case they were only slow; older ones are kept as a sum."""

Process = tuple[str, int]
"""A replica's name and pid: one that restarts under its old name is another process."""


@dataclass(slots=True)
class _Entry(Generic[AnyReport]):
    report: AnyReport
    seen: float
    expires: float
    rates: ReplicaRates[AnyReport]


class LivePool(Generic[AnyReport]):
    def __init__(self) -> None:
        self._live: dict[Process, _Entry[AnyReport]] = {}
        self._pids: dict[str, int] = {}
        self._departed: dict[Process, dict[str, float]] = {}
        self._departed_sums: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._live)

    def observe(self, report: AnyReport, now: float, expires: float) -> None:
        """A process with another pid takes the place of its namesake. A report that raises changes nothing."""
        name, pid = report.replica.name, report.replica.pid
        entry = self._live.get((name, pid)) or _Entry(report, now, expires, ReplicaRates())
        entry.rates.observe(report, now)
        former = self._pids.get(name)
        if former is not None and former != pid:
            self._depart((name, former))
        self._pids[name] = pid
        self._departed.pop((name, pid), None)
        entry.report, entry.seen, entry.expires = report, now, expires
        self._live[name, pid] = entry

    def allow(self, seconds: float) -> None:
        """Nobody expires for this much longer."""
        for entry in self._live.values():
            entry.expires += seconds

    def expire(self, now: float) -> list[str]:
        """Takes out who is silent; returns their names."""
        silent = [process for process, entry in self._live.items() if entry.expires < now]
        for process in silent:
            self._depart(process)
        return [name for name, _ in silent]

    @property
    def next_expiry(self) -> float:
        return min((entry.expires for entry in self._live.values()), default=math.inf)

    def _depart(self, process: Process) -> None:
        self._departed[process] = totals_of(self._live.pop(process).report)
        del self._pids[process[0]]
        while len(self._departed) > MAX_DEPARTED:
            _add(self._departed_sums, self._departed.pop(next(iter(self._departed))))

    def reports(self) -> list[AnyReport]:
        """The last one of each."""
        return [entry.report for entry in self._live.values()]

    def members(self, latest: bool = False) -> list[Member[AnyReport]]:
        """With rates over the window, or between the `latest` two reports."""
        entries = self._live.values()
        return [Member(e.report, e.rates.latest() if latest else e.rates.over_window()) for e in entries]

    def taking(self) -> int:
        """How many do not drain."""
        return sum(not entry.report.draining for entry in self._live.values())

    def totals(self) -> dict[str, float]:
        """By metric key, of all that ever reported."""
        sums = dict(self._departed_sums)
        for totals in (*self._departed.values(), *map(totals_of, self.reports())):
            _add(sums, totals)
        return sums

    def as_json(self, now: float) -> list[dict[str, Any]]:
        """By name."""
        entries = sorted(self._live.values(), key=lambda entry: entry.report.replica.name)
        return [{**as_json(entry.report), "age_s": round(max(now - entry.seen, 0.0), 3)} for entry in entries]


def _add(sums: dict[str, float], numbers: dict[str, float]) -> None:
    for name, value in numbers.items():
        sums[name] = sums.get(name, 0) + value
