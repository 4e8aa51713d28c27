"""Rates of one replica, from the totals in its reports.

Promises: a counter that went back means that the process began anew, and the window with it; what is not finite counts as
nothing. Pure: `now` (seconds, monotonic) comes in.
"""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic

from drafthouse.telemetry.report_numbers import totals_of
from drafthouse.wire.reports import AnyReport

WINDOW_S = 10.0
"""Rates to look at are taken over so long: some requests end and others begin meanwhile."""


@dataclass(frozen=True, slots=True)
class Rates(Generic[AnyReport]):
    """What was counted between two reports that are `seconds` apart."""

    before: AnyReport
    after: AnyReport
    seconds: float

    def per_s(self, counter: Callable[[AnyReport], float]) -> float:
        rate = (counter(self.after) - counter(self.before)) / self.seconds
        return rate if math.isfinite(rate) else 0.0


class ReplicaRates(Generic[AnyReport]):
    def __init__(self) -> None:
        self._samples: deque[tuple[float, AnyReport]] = deque()
        self._last: dict[str, float] = {}

    def observe(self, report: AnyReport, now: float) -> None:
        totals = totals_of(report)
        if any(totals.get(name, value) < value for name, value in self._last.items()):
            self._samples.clear()
        if self._samples and self._samples[-1][0] >= now:
            self._samples.pop()
        self._last = totals
        self._samples.append((now, report))
        while len(self._samples) > 2 and self._samples[1][0] <= now - WINDOW_S:
            self._samples.popleft()

    def over_window(self) -> Rates[AnyReport] | None:
        """Over WINDOW_S, or two reports where they come more seldom; None before a second report."""
        return self._since(0)

    def latest(self) -> Rates[AnyReport] | None:
        """Between the last two reports."""
        return self._since(max(0, len(self._samples) - 2))

    def _since(self, index: int) -> Rates[AnyReport] | None:
        if len(self._samples) < 2:
            return None
        (then, before), (now, after) = self._samples[index], self._samples[-1]
        return Rates(before, after, now - then)
