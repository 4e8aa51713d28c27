"""How many gateways there should be, from their running streams, the time of their event loops, and how late these are.

Promises: pure; never outside the bounds; no second change within a cool-down; at a steady load the pool comes to rest, since what
remains after one goes is at most KEEP_SHARE full. Who goes is not decided here: Serve chooses, and lets it finish its streams.
"""

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import fmean

from drafthouse.config.autoscaling import GatewayBounds
from drafthouse.wire.reports import GatewayReport

KEEP_SHARE = 0.6
"""One goes when the others would be at most so full. The gap to 1 is the hysteresis."""

BUSY_SHARE = 0.25
"""A loop that is late though it uses less than this of a core waits for other processes, and another gateway beside it would wait, too."""

TAUGHT_S = 600.0
"""So long it is remembered how full gateways were when their loops were late: else one would go, though it came for that reason."""

LEAST_FULL = 0.25
"""Of what the bounds say a gateway takes, it is trusted with this much at least, however late it was."""

GROWN = 2
"""The largest factor by which a pool grows at once."""


@dataclass(frozen=True, slots=True)
class GatewayLoad:
    """Of all gateways: streams that run, cores that event loops use, and how late even the least late loop is that is busy (seconds).

    The least late one, since streams stay where they are: beside one that is full, a new gateway that idles has room already.
    """

    streams: int = 0
    cores: float = 0.0
    late_s: float = 0.0


def load_of(reports: Iterable[GatewayReport]) -> GatewayLoad:
    reports = list(reports)
    late = [report.loop_lag_s if report.loop_cpu_share >= BUSY_SHARE else 0.0 for report in reports]
    return GatewayLoad(
        sum(report.load for report in reports), sum(report.loop_cpu_share for report in reports), min(late, default=0.0)
    )  # fmt: skip


@dataclass(slots=True)
class GatewaySize:
    """`desired` is the last verdict, `reason` why; both for people too."""

    bounds: GatewayBounds
    desired: int | None = None
    reason: str = "nothing is known yet"
    _ordered: int | None = None
    _coming: bool = False
    _quiet_until: float = -math.inf
    _samples: deque[tuple[float, float, float]] = field(default_factory=deque)  # when, how many would be just full, late_s
    _taught: tuple[float, float] | None = None  # (holds until, share of its bounds that a gateway had in use when loops were late)

    def decide(self, ordered: int, live: int, load: GatewayLoad, now: float) -> int:
        """`ordered`: what Serve was told last; `live`: gateways that report, those included that finish their streams to go."""
        self._settle(ordered, live, now)
        self.desired, self.reason = self._verdict(ordered, live, load, now)
        return self.desired

    def _settle(self, ordered: int, live: int, now: float) -> None:
        """What was seen before a change has come about, or within the cool-down after it, says nothing of the pool as it is then."""
        came = self._coming and live >= ordered
        if ordered != self._ordered or came:
            self._ordered, self._coming = ordered, live < ordered
            self._quiet_until = now + self.bounds.cool_down_s
            self._samples.clear()

    def _verdict(self, ordered: int, live: int, load: GatewayLoad, now: float) -> tuple[int, str]:
        bounds = self.bounds
        if not bounds.min <= ordered <= bounds.max:
            return min(max(ordered, bounds.min), bounds.max), f"bounds: {bounds.min} to {bounds.max}"
        if now < self._quiet_until:
            return ordered, "cools down after a change"
        if not live:
            return ordered, "none reports"
        self._samples.append((now, max(load.streams / bounds.streams, load.cores / bounds.cpu_share), load.late_s))
        while len(self._samples) > 2 and self._samples[1][0] <= now - max(bounds.up_delay_s, bounds.down_delay_s):
            self._samples.popleft()
        return self._weighed(ordered, live, load, now)

    def _weighed(self, ordered: int, live: int, load: GatewayLoad, now: float) -> tuple[int, str]:
        bounds, said = self.bounds, f"{load.streams} streams, {load.cores:.2f} cores, loops {1e3 * load.late_s:.0f} ms late"
        wanted = self._wanted(ordered, now)
        if wanted > ordered:
            if ordered >= bounds.max:
                return ordered, f"{said}; {bounds.max} is the most"
            if live < ordered:
                return ordered, f"{said}; {ordered - live} ordered before have yet to come"
            return min(wanted, GROWN * ordered, bounds.max), said
        past = self._since(bounds.down_delay_s, now)
        if past and live <= ordered and ordered > bounds.min:
            most = max(full for _, full, _ in past) / self._full_at(now)
            if most <= KEEP_SHARE * (ordered - 1):
                return ordered - 1, f"{said}; the others would be {most / (ordered - 1):.0%} full"
        return ordered, f"rests: {said}"

    def _wanted(self, ordered: int, now: float) -> int:
        """Gateways for what was seen over the delay, and is so still; one more where they are late."""
        if not (recent := self._since(self.bounds.up_delay_s, now)):
            return ordered
        full = min(fmean(full for _, full, _ in recent), recent[-1][1])
        if min(fmean(late for _, _, late in recent), recent[-1][2]) <= self.bounds.loop_lag_s:
            return math.ceil(full / self._full_at(now))
        self._taught = now + TAUGHT_S, max(LEAST_FULL, min(full / ordered, self._full_at(now)))
        return ordered + 1

    def _full_at(self, now: float) -> float:
        """How full a gateway may be: 1, unless they were late at less."""
        if self._taught is not None and now >= self._taught[0]:
            self._taught = None
        return 1.0 if self._taught is None else self._taught[1]

    def _since(self, over_s: float, now: float) -> list[tuple[float, float, float]]:
        """Samples of the last `over_s` seconds; none before there are samples of that long."""
        return [sample for sample in self._samples if sample[0] >= now - over_s] if self._samples[0][0] <= now - over_s else []
