"""Rates of one replica, from the counters in its reports.

Promises: a counter that went back means that the process began anew, and the window with it; numbers
that nobody can add up are left out. Pure: `now` (seconds, monotonic) comes in.
"""

import math
from collections import deque
from collections.abc import Mapping

WINDOW_S = 10.0
"""Rates to look at are taken over so long: some requests end and others begin meanwhile."""

Rates = Mapping[str, float]
"""By counter, per second; empty before a second report."""


def finite(numbers: Mapping[str, float]) -> dict[str, float]:
    """JSON has no infinity and no NaN, and no sum survives them."""
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


class ReplicaRates:
    def __init__(self) -> None:
        self._samples: deque[tuple[float, dict[str, float]]] = deque()

    def observe(self, totals: dict[str, float], now: float) -> None:
        """`totals` as reported, finite."""
        samples = self._samples
        if samples and any(totals.get(name, value) < value for name, value in samples[-1][1].items()):
            samples.clear()
        if samples and samples[-1][0] >= now:
            samples.pop()
        samples.append((now, totals))
        while len(samples) > 2 and samples[1][0] <= now - WINDOW_S:
            samples.popleft()

    def over_window(self) -> Rates:
        """Over WINDOW_S, or two reports where they come more seldom."""
        return self._since(0)

    def latest(self) -> Rates:
        """Between the last two reports."""
        return self._since(max(0, len(self._samples) - 2))

    def _since(self, index: int) -> Rates:
        if len(self._samples) < 2:
            return {}
        (then, before), (now, after) = self._samples[index], self._samples[-1]
        return {name: (value - before.get(name, 0.0)) / (now - then) for name, value in after.items()}
